"""Compression of weights: magnitude pruning, fake quantisation, and low-rank factorisation.

Sources: Offsite-Tuning (arXiv 2302.04870), section 4.4, and CRaSh (EMNLP 2023), section 4, compare with all three.
All functions compute in at least float32 and return the data type of their input.
"""

import hashlib

import torch
from torch import Tensor

from tasks.core.compression.settings import part_of


@torch.no_grad()
def pruned(weight: Tensor, ratio: float) -> Tensor:
    """Set the floor(ratio * n) entries of smallest magnitude to zero, on a tie the first ones; return a new weight."""
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
    """Round a weight to 2^bits evenly spaced levels from its smallest to its largest entry.

    The zero point (max + min) / 2 lies between the two middle levels, so no entry moves by more than half a step (plus
    the rounding of the data type). Levels at whole steps from the zero point would number 2^bits + 1.
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
    """Factorise a weight [out, in] into (outer [out, rank], inner [rank, in]) whose product approximates it.

    choice: "topk" keeps the largest singular values (the best approximation), "sampling" draws them without replacement
    with probabilities proportional to their size, "lowrank" is the randomised SVD of Halko et al. (arXiv 0909.4061).
    Each factor takes the square root of the singular values, so that both are well scaled for 16 bits.
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
    return halves(left, values, right, weight.dtype)


def halves(left: Tensor, values: Tensor, right: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (outer [out, r], inner [r, in]) of singular values [r], each with the square root of the values."""
    root = values.sqrt()
    return (left * root).to(dtype).contiguous(), (root[:, None] * right).to(dtype).contiguous()


def product(outer: Tensor, inner: Tensor) -> Tensor:
    """Multiply two factors to a weight [out, in], in the data type of the outer factor."""
    return (_wide(outer) @ _wide(inner)).to(outer.dtype)


def relative_error(weight: Tensor, other: Tensor) -> float:
    """Norm of the difference divided by the norm of the weight; 0 when both weights are zero."""
    wide = _wide(weight)
    return float((_wide(other) - wide).norm() / wide.norm().clamp_min(torch.finfo(wide.dtype).tiny))


def seed_of(seed: int, name: str) -> int:
    """Derive a seed for one weight, so that its result does not depend on the other weights."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")


def _drawn(values: Tensor, count: int, seed: int) -> Tensor:
    # Singular values of zero can be drawn too, but only after all others.
    chances = values.double().clamp_min(1e-300)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(chances, count, replacement=False, generator=generator).sort().values


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
