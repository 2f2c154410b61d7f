"""How far apart predicted distributions are: every pair of N, averaged over positions that stream by.

Everything is computed on probabilities from log-probabilities, in float32 or wider: no logarithm of a probability that
has underflowed, no difference of two large entropies. KL and JS are sums of terms that are not negative (those of
Csiszar's divergences with f(1) = f'(1) = 0): sums of p log(p/q) of both signs lose all digits where p and q are alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tasks.core.errors import InputError

# kl and js in nats, wasserstein in nats of surprisal; hellinger, total_variation and cosine lie in [0, 1].
DISTANCES = ("kl", "js", "hellinger", "total_variation", "wasserstein", "cosine")
# What stands for a token that is ruled out (-inf): its probability is 0, and 0 times this is 0 and not NaN.
LOWEST = -1e4
# Numbers in each of the few tensors from which pairs are made, 16 MiB in float32: larger ones leave the CPU's caches.
PAIRED_NUMBERS = 1 << 22


def positions_at_once(num_distributions: int, vocabulary: int, num_numbers: int) -> int:
    """Positions whose distributions [N, positions, vocabulary] are at most so many numbers, at least one."""
    return max(1, num_numbers // (num_distributions * vocabulary))


def log_probabilities(logits: Tensor, name: str) -> Tensor:
    """[..., vocabulary], float32. InputError if one is NaN; name: whose they are."""
    found = logits.float().log_softmax(-1)
    if found.isnan().any():
        raise InputError(
            f"the distribution predicted by {name} holds NaN; check the weights of the model's final norm and head, or"
            " compute in float32 (model.precision)"
        )
    return found


def kl_divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL(ours || theirs) of log-probabilities [..., vocabulary], in nats; [...]. It is not negative."""
    ours, theirs = ours.clamp_min(LOWEST), theirs.clamp_min(LOWEST)
    gap, fall, larger = _compared(ours, theirs)
    return torch.where(ours > theirs, _from_larger(gap, fall), _from_smaller(gap, fall)).mul(larger).sum(-1)


def kl_loss(ours: Tensor, theirs: Tensor) -> Tensor:
    """`kl_divergence` to learn from: with the same slope after a softmax and at two thirds of the time of a step.

    Its value loses digits where both are alike; it may be negative by rounding.
    """
    ours, theirs = ours.clamp_min(LOWEST), theirs.clamp_min(LOWEST)
    return (ours.exp() * (ours - theirs)).sum(-1)


def entropy(ours: Tensor) -> Tensor:
    """Of log-probabilities [..., vocabulary], in nats; [...]."""
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
        """Take in some positions: log-probabilities [N, M, vocabulary], and where tokens lie on a line [M, vocabulary].

        ground: a cost of moving mass for Wasserstein, |ground of a token - ground of the other|.
        """
        step = positions_at_once(len(ours), ours.shape[-1], PAIRED_NUMBERS)
        for start in range(0, ours.shape[1], step):
            part = slice(start, start + step)
            for name, values in _summed(ours[:, part].clamp_min(LOWEST), ground[part].clamp_min(LOWEST)).items():
                self.sums[name] += values
        self.num_positions += ours.shape[1]

    def means(self) -> Mapping[str, Tensor]:
        """Mean over positions; kl[i, j] is KL(p_i || p_j), all others are symmetric. InputError without a position."""
        if not self.num_positions:
            raise InputError("functional distances: there is no position to compare predictions at; give more rows")
        return {name: values / self.num_positions for name, values in self.sums.items()}


def _summed(ours: Tensor, ground: Tensor) -> dict[str, Tensor]:
    """Sums over positions, [N, N] each. One pair at a time: temporary tensors are [M, vocabulary]."""
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
                # Half the squared distance of the unit vectors is 1 - cos, without a difference of two ones.
                "cosine": (p / lengths[i] - q / lengths[j]).square_().sum(-1).div(2),
            }
            for name, values in pair.items():
                sums[name][i, j] = sums[name][j, i] = _total(values)
    return sums


def _information(ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
    """At each position KL(ours || theirs), KL(theirs || ours), and the mean of both's KL to their middle (JS)."""
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
    """|log p - log q|, min(p, q) / max(p, q) - 1 without a difference of two ones, and max(p, q)."""
    gap = (ours - theirs).abs()
    return gap, (-gap).expm1(), torch.maximum(ours, theirs).exp()


def _from_larger(gap: Tensor, fall: Tensor) -> Tensor:
    """p log(p/q) - p + q over p, where p > q."""
    return (fall + gap).clamp_min(0)


def _from_smaller(gap: Tensor, fall: Tensor) -> Tensor:
    """p log(p/q) - p + q over q, where q >= p."""
    return -(fall + gap * (1 + fall)).clamp_max(0)


def _on_line(probabilities: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Distribution functions [N, M, vocabulary] in the order of the ground, and the gaps [M, vocabulary - 1] in it.

    On a line the distance of Wasserstein (order 1) is the area between the two distribution functions.
    """
    placed, order = ground.sort(-1)
    return probabilities.gather(-1, order.expand_as(probabilities)).cumsum_(-1), placed.diff(dim=-1)


def _total(values: Tensor) -> Tensor:
    return values.double().sum().cpu()
