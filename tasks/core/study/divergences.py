"""Distances between every pair of N predicted distributions, averaged over a stream of positions.

Everything is computed from log-probabilities, in float32 or wider, without logarithms of underflowed probabilities and
without differences of two large entropies. KL and JS are sums of non-negative terms (those of Csiszar's divergences
with f(1) = f'(1) = 0), because sums of p log(p/q) of both signs lose all digits when p and q are similar.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.core.errors import InputError

# kl and js in nats, wasserstein in nats of surprisal; hellinger, total_variation and cosine lie in [0, 1].
DISTANCES = ("kl", "js", "hellinger", "total_variation", "wasserstein", "cosine")
# Replaces the log-probability -inf of an excluded token: its probability is still 0, and 0 times this is 0, not NaN.
LOWEST = -1e4
# Elements of each of the few tensors from which pairs are made, 16 MiB in float32: larger ones exceed the CPU's caches.
PAIRED_NUMBERS = 1 << 22


def positions_at_once(num_distributions: int, vocabulary: int, num_numbers: int) -> int:
    """Number of positions, at least 1, whose distributions [N, positions, vocabulary] have at most `num_numbers`."""
    return max(1, num_numbers // (num_distributions * vocabulary))


def log_probabilities(logits: Tensor, name: str) -> Tensor:
    """Compute log-probabilities [..., vocabulary], float32. name: the source of the logits, for the error message.

    Raises:
        InputError: when a value is NaN.
    """
    found = logits.float().log_softmax(-1)
    if found.isnan().any():
        raise InputError(
            f"the distribution predicted by {name} holds NaN; check the weights of the model's final norm and head, or"
            " compute in float32 (model.precision)"
        )
    return found


def kl_divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(ours || theirs) of log-probabilities [..., vocabulary], in nats, [...]; never negative."""
    ours, theirs = ours.clamp_min(LOWEST), theirs.clamp_min(LOWEST)
    gap, fall, larger = _compared(ours, theirs)
    return torch.where(ours > theirs, _from_larger(gap, fall), _from_smaller(gap, fall)).mul(larger).sum(-1)


def kl_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(ours || theirs) as a training loss: the gradient of `kl_divergence` after a softmax, in 2/3 of the step time.

    The value loses digits when both distributions are similar, and rounding may make it negative.
    """
    ours, theirs = ours.clamp_min(LOWEST), theirs.clamp_min(LOWEST)
    return (ours.exp() * (ours - theirs)).sum(-1)


def entropy(ours: Tensor) -> Tensor:
    """Entropy of log-probabilities [..., vocabulary], in nats, [...]."""
    return -(ours.exp() * ours.clamp_min(LOWEST)).sum(-1)


@dataclass
class Distances:
    """Sums over positions of the distances between N distributions, each [N, N] in float64 on the CPU."""

    num_distributions: int
    num_positions: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = (self.num_distributions, self.num_distributions)
        self.sums = {name: torch.zeros(size, dtype=torch.float64) for name in DISTANCES}

    def update(self, ours: Tensor, ground: Tensor) -> None:
        """Add M positions. ours: log-probabilities [N, M, vocabulary]; ground: places of the tokens on a line.

        ground: [M, vocabulary]; the Wasserstein cost of moving mass is |ground of one token - ground of the other|.
        """
        step = positions_at_once(len(ours), ours.shape[-1], PAIRED_NUMBERS)
        for start in range(0, ours.shape[1], step):
            part = slice(start, start + step)
            for name, values in _summed(ours[:, part].clamp_min(LOWEST), ground[part].clamp_min(LOWEST)).items():
                self.sums[name] += values
        self.num_positions += ours.shape[1]

    def means(self) -> Mapping[str, Tensor]:
        """Mean distances over positions, [N, N] each; kl[i, j] is KL(p_i || p_j), all others are symmetric.

        Raises:
            InputError: when no position was added.
        """
        if not self.num_positions:
            raise InputError("functional distances: there is no position to compare predictions at; give more rows")
        return {name: values / self.num_positions for name, values in self.sums.items()}


def _summed(ours: Tensor, ground: Tensor) -> dict[str, Tensor]:
    """Sums over positions, [N, N] each, one pair at a time, so that temporary tensors are [M, vocabulary]."""
    count = len(ours)
    sums = {name: torch.zeros(count, count, dtype=torch.float64) for name in DISTANCES}
    probabilities, roots = ours.exp(), (ours / 2).exp()
    lengths = probabilities.norm(dim=-1, keepdim=True)
    cumulated, steps = _on_line(probabilities, ground)
    for i in range(count):
        for j in range(i + 1, count):
            p, q = probabilities[i], probabilities[j]
            information = _information(ours[i], ours[j])
            sums["kl"][i, j], sums["kl"][j, i] = (_total(information[way]) for way in ("forward", "backward"))
            pair = {
                "js": information["js"],
                "hellinger": (roots[i] - roots[j]).square_().sum(-1).div(2).sqrt(),
                "total_variation": (p - q).abs_().sum(-1).div(2),
                "wasserstein": (cumulated[i] - cumulated[j])[:, :-1].abs_().mul_(steps).sum(-1),
                # Half the squared distance of the unit vectors is 1 - cos, without subtracting two numbers close to 1.
                "cosine": (p / lengths[i] - q / lengths[j]).square_().sum(-1).div(2),
            }
            for name, values in pair.items():
                sums[name][i, j] = sums[name][j, i] = _total(values)
    return sums


def _information(ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
    """KL(ours || theirs), KL(theirs || ours) and JS (the mean of both distributions' KL to their mean), by position."""
    gap, fall, larger = _compared(ours, theirs)
    down, up = _from_larger(gap, fall).mul_(larger), _from_smaller(gap, fall).mul_(larger)
    above = ours > theirs
    # p log(p/m) + q log(q/m) with m = (p + q) / 2, over the larger of p and q.
    middle = (fall + 2).mul_((fall / 2).log1p_()).add_((fall + 1).mul_(gap)).mul_(larger)
    return {
        "forward": torch.where(above, down, up).sum(-1),
        "backward": torch.where(above, up, down).sum(-1),
        "js": middle.sum(-1).div(-2).clamp_min_(0),
    }


def _compared(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return |log p - log q|, min(p, q) / max(p, q) - 1 without subtracting numbers close to 1, and max(p, q)."""
    gap = (ours - theirs).abs()
    return gap, (-gap).expm1(), torch.maximum(ours, theirs).exp()


def _from_larger(gap: Tensor, fall: Tensor) -> Tensor:
    """Compute (p log(p/q) - p + q) / p, where p > q."""
    return (fall + gap).clamp_min(0)


def _from_smaller(gap: Tensor, fall: Tensor) -> Tensor:
    """Compute (p log(p/q) - p + q) / q, where q >= p."""
    return -(fall + gap * (1 + fall)).clamp_max(0)


def _on_line(probabilities: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulative distributions [N, M, vocabulary] in the order of the ground, and its gaps [M, vocabulary - 1].

    On a line, the Wasserstein-1 distance is the area between the two cumulative distribution functions.
    """
    placed, order = ground.sort(-1)
    return probabilities.gather(-1, order.expand_as(probabilities)).cumsum_(-1), placed.diff(dim=-1)


def _total(values: Tensor) -> Tensor:
    return values.double().sum().cpu()
