"""Steps of DP-SGD (Abadi et al. 2016), exact for every family and tuning method: one pass for each row.

Rows are sampled independently, each with the same probability, as the accountant assumes. The gradient of a row is that
of the mean loss over its answer; clipped gradients are summed, noise is added, and the result is divided by the
expected number of rows, since the number that was sampled is private too.
"""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from tasks.core.errors import SettingError
from tasks.core.privacy.accountant import epsilon_of
from tasks.core.privacy.gradients import ClippedSum
from tasks.core.privacy.noise import sampled_rows
from tasks.core.tuning.settings import TrainSettings


class PrivateSteps:
    """The rows and the gradient of each step of a tuning with `dp_noise`. num_rows: of the training rows."""

    def __init__(self, settings: TrainSettings, parameters: Sequence[nn.Parameter], num_rows: int) -> None:
        assert settings.dp_noise is not None
        self._noise, self._clip = settings.dp_noise, settings.dp_clip
        self._parameters, self._num_rows = parameters, num_rows
        self._rate = sampling_rate(settings, num_rows)

    def rows(self, key: str, step: int) -> list[int]:
        """Return the rows of a step, possibly none. key: secret, of `new_key`."""
        return sampled_rows(self._num_rows, self._rate, key, step)

    def gradient(
        self, losses: Iterable[Tensor], backward: Callable[[Tensor], None], key: str, step: int
    ) -> list[float]:
        """Give the parameters the gradient of a step; return the loss of each row.

        losses: a scalar for each row, made when it is asked for.
        """
        total, found = ClippedSum(self._parameters, self._clip), []
        for parameter in self._parameters:
            parameter.grad = None
        for loss in losses:
            backward(loss)
            total.add()
            found.append(float(loss.detach()))
        total.noisy_mean(self._noise, self._rate * self._num_rows, key, step)
        return found


def sampling_rate(settings: TrainSettings, num_rows: int) -> float:
    """Return the probability of each row in each step, for which a step has `batch_size` rows on average."""
    return min(1.0, settings.batch_size / num_rows)


def privacy_facts(settings: TrainSettings, num_rows: int, num_steps: int) -> dict[str, float]:
    """Return noise, clipping, and with noise also epsilon and delta, of a tuning with DP-SGD; else nothing."""
    if settings.dp_noise is None:
        return {}
    facts = {"dp_noise": settings.dp_noise, "dp_clip": settings.dp_clip}
    if settings.dp_noise:
        rate, delta = sampling_rate(settings, num_rows), settings.dp_delta
        facts |= {"dp_epsilon": epsilon_of(settings.dp_noise, rate, num_steps, delta), "dp_delta": delta}
    return facts


def require_small_delta(settings: TrainSettings, num_rows: int) -> None:
    """Check that delta is small enough to mean anything: giving one row in num_rows away has a delta of 1 / num_rows.

    Raises:
        SettingError: when it is not.
    """
    if settings.dp_noise and settings.dp_delta * num_rows >= 1:
        raise SettingError(
            f"`dp_delta` = {settings.dp_delta:g} with {num_rows} training rows protects nothing: give far less than"
            f" 1 / {num_rows}"
        )
