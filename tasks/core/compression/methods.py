"""Weights made cheaper: pruned by magnitude, fake-quantised, or in two factors.

Sources: Offsite-Tuning (arXiv 2302.04870), section 4.4, and CRaSh (EMNLP 2023), section 4, compare with all three.
Everything is computed in at least float32 and returned in the number format that was given.
"""

import hashlib

import torch
from torch import Tensor

from tasks.core.compression.settings import part_of


@torch.no_grad()
def pruned(weight: Tensor, ratio: float) -> Tensor:
    """The weight with its floor(ratio * n) smallest entries by size set to zero; of equal ones the first ones are."""
    result = weight.flatten().clone()
    count = part_of(ratio, result.numel())
    if count:
        size = _wide(result).abs()
        threshold = size.kthvalue(count).values
        below = size < threshold
        equal = (size == threshold).nonzero().flatten()[: count - int(below.sum())]
        result[below] = 0
        result[equal] = 0
    return result.reshape(weight.shape)


@torch.no_grad()
def quantised(weight: Tensor, bits: int) -> Tensor:
    """The weight on 2^bits evenly spaced levels from its smallest to its largest entry.

    The zero point (max + min) / 2 lies between the two levels in the middle: no entry moves by more than half a step
    (and the rounding of the number format). Levels at whole steps from the zero point would be 2^bits + 1.
    """
    wide = _wide(weight)
    low, high = wide.aminmax()
    step = (high - low) / (2**bits - 1)
    if not step > 0:
        return weight.clone()
    zero_point, half = (high + low) / 2, 2 ** (bits - 1)
    level = ((wide - zero_point) / step - 0.5).round().clamp(-half, half - 1)
    return (zero_point + (level + 0.5) * step).to(weight.dtype)


@torch.no_grad()
def factors(weight: Tensor, rank: int, choice: str, seed: int) -> tuple[Tensor, Tensor]:
    """(outer [out, rank], inner [rank, in]) with outer @ inner close to weight [out, in].

    choice: "topk" keeps the largest singular values (the closest there is), "sampling" draws them without repetition
    with probability proportional to their size, "lowrank" is the randomised SVD of Halko et al. (arXiv 0909.4061).
    Each factor takes the square root of the singular values, so that both keep well in 16 bits.
    """
    wide = _wide(weight)
    if choice == "lowrank":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            left, values, right = torch.svd_lowrank(wide, q=rank)
        right = right.T
    else:
        left, values, right = torch.linalg.svd(wide, full_matrices=False)
        chosen = torch.arange(rank) if choice == "topk" else _drawn(values, rank, seed)
        left, values, right = left[:, chosen], values[chosen], right[chosen]
    root = values.sqrt()
    return (left * root).to(weight.dtype).contiguous(), (root[:, None] * right).to(weight.dtype).contiguous()


def product(outer: Tensor, inner: Tensor) -> Tensor:
    """The weight [out, in] of two factors, in their number format."""
    return (_wide(outer) @ _wide(inner)).to(outer.dtype)


def relative_error(weight: Tensor, other: Tensor) -> float:
    """Norm of the difference over the norm of the weight; 0 for a weight of zeros."""
    wide = _wide(weight)
    return float((_wide(other) - wide).norm() / wide.norm().clamp_min(torch.finfo(wide.dtype).tiny))


def seed_of(seed: int, name: str) -> int:
    """A seed for one weight, so that its choice does not depend on which others there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")


def _drawn(values: Tensor, count: int, seed: int) -> Tensor:
    # Singular values of zero can be drawn too, once nothing else is left.
    chances = values.double().clamp_min(1e-300)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(chances, count, replacement=False, generator=generator).sort().values


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
