"""Similarity of the representations of two blocks.

Sources: linear and RBF CKA: Kornblith et al. 2019 (arXiv 1905.00414); debiased: Nguyen et al. 2021 (2010.15327), after
the unbiased HSIC of Song et al. 2012; trimmed, standardised: `tasks.core.channels`; angular distance: Gromov et al.
2024 (2403.17887); block influence: ShortGPT (2403.03853).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tasks.core.channels import standardised, without_massive_channels
from tasks.core.errors import InputError

# The unbiased estimator divides by n (n - 3).
MIN_ROWS = 4


class Estimator(NamedTuple):
    """An estimator of CKA. kernel: "linear" or "rbf"; prepared: makes of states [N, n, d] those that are compared."""

    kernel: str
    debiased: bool = False
    prepared: Callable[[Tensor], Tensor] = lambda states: states


ESTIMATORS = {
    "linear_cka": Estimator("linear"),
    "debiased_cka": Estimator("linear", debiased=True),
    "rbf_cka": Estimator("rbf"),
    "trimmed_cka": Estimator("linear", prepared=without_massive_channels),
    "standardised_cka": Estimator("linear", prepared=standardised),
}


def estimator_named(name: str) -> Estimator:
    """Return one of `ESTIMATORS`.

    Raises:
        InputError: when there is none of this name.
    """
    if name not in ESTIMATORS:
        raise InputError(f"estimator = {name!r}; choose from {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def cka(states: Tensor, estimator: str, names: Sequence[str] | None = None) -> Tensor:
    """CKA of every pair of representations by one of `ESTIMATORS`, [N, N], diagonal 1. Arguments as `linear_cka`.

    Raises:
        InputError: as `linear_cka`, or when the estimator is unknown.
    """
    kernel, debiased, prepared = estimator_named(estimator)
    _checked(states)
    return _cka(prepared(states), kernel, debiased, names)


def linear_cka(states: Tensor, debiased: bool = False, names: Sequence[str] | None = None) -> Tensor:
    """Linear CKA of every pair of representations, [N, N], diagonal 1.

    states: [N, n, d], row r of every state from the same example. The biased estimator is
    ||Yc' Xc||_F^2 / (||Xc' Xc||_F ||Yc' Yc||_F) with centred columns. For independent representations with n < d it is
    far from 0; the debiased estimator is not. Costs N Gram matrices [n, n] and one product [N, n^2][n^2, N].
    names: the names of the states in error messages.

    Raises:
        InputError: when n <= 3, or a state is constant or contains NaN or infinity.
    """
    return _cka(states, "linear", debiased, names)


def rbf_cka(states: Tensor, debiased: bool = False, names: Sequence[str] | None = None) -> Tensor:
    """CKA with a Gaussian kernel whose bandwidth is each state's median distance between two rows, [N, N].

    states: [N, n, d].

    Raises:
        InputError: as `linear_cka`.
    """
    return _cka(states, "rbf", debiased, names)


def angular_distance(states: Tensor) -> Tensor:
    """Mean over rows of arccos(cosine of the two states) / pi, [N, N], zero on the diagonal.

    states: [N, n, d], the state of each example's last token.
    """
    unit = torch.nn.functional.normalize(states.float(), dim=-1).transpose(0, 1)  # [n, N, d]
    # Chords instead of cosines: arccos loses all digits near 1, where the cosines of neighbouring blocks are.
    chord = torch.cdist(unit.double(), unit.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return (2 * torch.asin((chord / 2).clamp(max=1.0)) / math.pi).mean(dim=0).float()


class BlockInfluence:
    """Streaming mean over tokens of 1 - cos(input, output) for each block (ShortGPT, equation 1)."""

    def __init__(self) -> None:
        self._sums: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def update(self, block: int, inputs: Tensor, outputs: Tensor, mask: Tensor) -> None:
        """Add the tokens of one batch, without padding. inputs, outputs: [B, T, d]; mask: [B, T]."""
        real = mask.bool()
        cosine = torch.nn.functional.cosine_similarity(inputs.float(), outputs.float(), dim=-1)
        self._sums[block] = self._sums.get(block, 0.0) + float((1 - cosine)[real].double().sum())
        self._counts[block] = self._counts.get(block, 0) + int(real.sum())

    def result(self) -> Tensor:
        """Block influence, [N] float32; larger means that the block changes its input more."""
        return torch.tensor([self._sums[block] / self._counts[block] for block in sorted(self._sums)])


def unit_kernels(states: Tensor, kernel: str, debiased: bool = False, names: Sequence[str] | None = None) -> Tensor:
    """Centred kernels of norm 1, [N, n^2] float64; the inner product of two of them is the CKA of their states.

    states: [N, n, d]; kernel: "linear" or "rbf". debiased: U-centre, so that the product gives the unbiased HSIC.

    Raises:
        InputError: as `linear_cka`.
    """
    num_states, num_rows, _ = _checked(states)
    flat = torch.empty(num_states, num_rows * num_rows, dtype=torch.float64, device=states.device)
    for index, gram in enumerate(kernels(states, kernel, names)):
        noise = torch.finfo(_working_type(states)).eps * gram.norm()
        centred = centre(gram, debiased).flatten()
        torch.div(centred, checked_norm(centred, noise, _name(names, index)), out=flat[index])
    return flat


def kernels(states: Tensor, kernel: str, names: Sequence[str] | None = None) -> Iterator[Tensor]:
    """Yield the uncentred kernel [n, n] of each state, float64, computed from centred columns scaled to size 1.

    Arguments as `unit_kernels`.

    Raises:
        InputError: when there are too few rows, or a state is constant or contains NaN or infinity.
    """
    _checked(states)
    # One buffer for all states: allocating memory for each costs as much time as the arithmetic.
    room = torch.empty_like(states[0], dtype=_working_type(states))
    for index, state in enumerate(states):
        yield KERNELS[kernel](_prepared(state, _name(names, index), room)).double()


def centre(gram: Tensor, debiased: bool) -> Tensor:
    """Centre a kernel [n, n], in place unless debiased; U-centre it when debiased."""
    return _u_centred(gram) if debiased else _centred(gram)


def checked_norm(kernel: Tensor, noise: Tensor, name: str) -> Tensor:
    """Norm of a centred kernel.

    When all rows are equally similar, or all but one are equal, debiasing leaves only rounding errors.

    Raises:
        InputError: when the norm does not exceed `noise`.
    """
    norm = kernel.norm()
    if not norm > noise:
        raise InputError(
            f"the representation of {name} has no structure between rows that could be compared; take other or more"
            " examples, or the biased estimator"
        )
    return norm


def _cka(states: Tensor, kernel: str, debiased: bool, names: Sequence[str] | None) -> Tensor:
    flat = unit_kernels(states, kernel, debiased, names)
    similarity = flat @ flat.T
    similarity.fill_diagonal_(1.0)
    return similarity.to(_working_type(states))


def _checked(states: Tensor) -> torch.Size:
    if states.ndim != 3:
        raise InputError(f"states must be [states, rows, width]; the shape is {list(states.shape)}")
    if (num_rows := states.shape[1]) < MIN_ROWS:
        raise InputError(f"{num_rows} rows are too few to compare representations; give at least {MIN_ROWS}")
    return states.shape


def _name(names: Sequence[str] | None, index: int) -> str:
    return names[index] if names else f"block {index}"


def _working_type(states: Tensor) -> torch.dtype:
    return torch.float64 if states.dtype == torch.float64 else torch.float32


def _prepared(state: Tensor, name: str, room: Tensor) -> Tensor:
    """Write the state to `room`, with centred columns and scaled to size 1 so that no product over- or underflows."""
    lowest, highest = state.aminmax()  # NaN wins
    if not (lowest.isfinite() and highest.isfinite()):
        raise InputError(f"the representation of {name} holds NaN or infinite values")
    room.copy_(state)
    room.sub_(room.mean(dim=0))
    size = torch.maximum(*map(torch.abs, room.aminmax()))
    # When all rows are equal, rounding leaves a few units in the last place.
    if size <= 8 * torch.finfo(room.dtype).eps * torch.maximum(lowest.abs(), highest.abs()):
        raise InputError(f"the representation of {name} is the same for every row, so nothing can be compared with it")
    return room.div_(size)


def _linear_gram(state: Tensor) -> Tensor:
    """Gram matrix [n, n]; one of the two equal off-diagonal quarters is copied instead of computed."""
    half = len(state) // 2
    upper, lower = state[:half], state[half:]
    gram = state.new_empty(len(state), len(state))
    torch.mm(upper, upper.T, out=gram[:half, :half])
    torch.mm(lower, lower.T, out=gram[half:, half:])
    torch.mm(upper, lower.T, out=gram[:half, half:])
    gram[half:, :half] = gram[:half, half:].T
    return gram


def _rbf_gram(state: Tensor) -> Tensor:
    rows = state.double()
    square = torch.cdist(rows, rows).square()
    # cdist uses a fast product that leaves rounding errors between equal rows. With most rows equal, such an error
    # would become the median.
    size = rows.square().sum(dim=1)
    rounding = torch.finfo(rows.dtype).eps * rows.shape[1] * (size.unsqueeze(0) + size.unsqueeze(1))
    square.masked_fill_(square <= rounding, 0.0)
    median = square[torch.ones_like(square).triu(1).bool()].median()
    return torch.exp(-square / (2 * median.clamp(min=torch.finfo(torch.float64).tiny)))


def _centred(gram: Tensor) -> Tensor:
    """H K H of a symmetric matrix, in place."""
    mean = gram.mean(dim=0)
    return gram.sub_(mean.unsqueeze(0)).sub_((mean - mean.mean()).unsqueeze(1))


def _u_centred(gram: Tensor) -> Tensor:
    """U-centre a matrix: the inner product of two such matrices is n (n - 3) times the unbiased HSIC."""
    n = gram.shape[0]
    hollow = gram.clone().fill_diagonal_(0.0)
    rows = hollow.sum(dim=1) / (n - 2)
    total = hollow.sum() / ((n - 1) * (n - 2))
    return (hollow - rows.unsqueeze(0) - rows.unsqueeze(1) + total).fill_diagonal_(0.0)


KERNELS = {"linear": _linear_gram, "rbf": _rbf_gram}
