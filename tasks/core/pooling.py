"""Pooling: one float32 vector from the states of an example's tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.core.errors import InputError


def pool(hidden: Tensor, mask: Tensor, mode: str = "mean_weighted") -> Tensor:
    """Pool the states of each row into one vector.

    hidden: [B, T, d]; mask: [B, T], true or 1 at real tokens, padded on either side. Returns float32 [B, d].
    Real tokens are counted t = 1..T. mean_weighted: sum_t t x_t / sum_t t; mean, min, max_nonpad: over real tokens;
    mean_all, max: over all tokens, including padding; last: the last real token. Source: CRaSh, section 3.1.

    Raises:
        InputError: when a row has no real token, or the mode is unknown.
    """
    if mode not in _POOLINGS:
        raise InputError(f"pooling = {mode!r}; choose from {', '.join(POOLINGS)}")
    real = mask.bool()
    empty = (~real.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"row {empty[0]} of the batch has no token to pool; every example needs at least one")
    return _POOLINGS[mode](hidden.float(), real)


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    return torch.bmm(weights.unsqueeze(1), hidden.masked_fill((weights == 0).unsqueeze(2), 0.0)).squeeze(
        1
    ) / weights.sum(dim=1, keepdim=True)


def _mean_weighted(hidden: Tensor, real: Tensor) -> Tensor:
    return _weighted(hidden, real.cumsum(dim=1).float() * real)


def _mean(hidden: Tensor, real: Tensor) -> Tensor:
    return _weighted(hidden, real.float())


def _mean_all(hidden: Tensor, real: Tensor) -> Tensor:
    return hidden.mean(dim=1)


def _max(hidden: Tensor, real: Tensor) -> Tensor:
    return hidden.amax(dim=1)


def _max_nonpad(hidden: Tensor, real: Tensor) -> Tensor:
    return hidden.masked_fill(~real.unsqueeze(2), -torch.inf).amax(dim=1)


def _min(hidden: Tensor, real: Tensor) -> Tensor:
    return hidden.masked_fill(~real.unsqueeze(2), torch.inf).amin(dim=1)


def _last(hidden: Tensor, real: Tensor) -> Tensor:
    positions = torch.arange(real.shape[1], device=real.device)
    place = positions.expand_as(real).masked_fill(~real, -1).amax(dim=1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), place]


_POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_weighted": _mean_weighted,
    "mean": _mean,
    "mean_all": _mean_all,
    "max": _max,
    "max_nonpad": _max_nonpad,
    "min": _min,
    "last": _last,
}
POOLINGS = tuple(_POOLINGS)
