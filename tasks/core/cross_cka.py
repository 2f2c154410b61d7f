"""Similarity of the representations of two networks, or of one network before and after a change.

Source: Kornblith et al. 2019 (arXiv 1905.00414), section 5; the debiased estimator is Nguyen et al. 2021 (2010.15327).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.core.cka import unit_kernels
from tasks.core.errors import InputError


def cross_cka(
    first: Tensor,
    second: Tensor,
    kernel: str = "linear",
    debiased: bool = False,
    first_names: Sequence[str] | None = None,
    second_names: Sequence[str] | None = None,
) -> Tensor:
    """CKA of every state of one network with every state of another, [N1, N2] float32.

    first: [N1, n, d1]; second: [N2, n, d2]; row r of both from the same example; the widths may differ. kernel:
    "linear" or "rbf" (bandwidth: each state's median distance). Costs N1 + N2 Gram matrices and one product.

    Raises:
        InputError: when the numbers of rows differ, n <= 3, or a state is constant or contains NaN or infinity.
    """
    if first.ndim == second.ndim == 3 and first.shape[1] != second.shape[1]:
        raise InputError(
            f"{first.shape[1]} rows against {second.shape[1]}: CKA compares two networks on the same rows, so both"
            " must be captured on the same examples"
        )
    left = unit_kernels(first, kernel, debiased, first_names)
    right = unit_kernels(second, kernel, debiased, second_names)
    return (left @ right.T).to(torch.float32)
