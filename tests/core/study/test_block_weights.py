"""Streamed statistics of matrices against torch on the whole matrices, and laws of the distance."""

import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.study.block_weights import BlockMatrices, relative_distance


def matrices(num_blocks: int = 5) -> torch.Tensor:
    return torch.randn(num_blocks, 12, 7, generator=torch.Generator().manual_seed(0)) * 3 + 1


def streamed(tensor: torch.Tensor, step: int = 10) -> BlockMatrices:
    found = BlockMatrices("fc1.weight", list(range(len(tensor))))
    for part in tensor.flatten(1).split(step, dim=1):
        found.update(part)
    return found


@pytest.mark.parametrize("step", [1, 10, 84, 1000])
def test_parts_give_what_the_whole_matrices_give(step: int) -> None:
    tensor = matrices()
    found = streamed(tensor, step).result()
    torch.testing.assert_close(found.norms, torch.linalg.matrix_norm(tensor.double()))
    torch.testing.assert_close(found.variances, tensor.double().flatten(1).var(dim=1, correction=0))
    expected = torch.linalg.matrix_norm(tensor.double().unsqueeze(1) - tensor.double().unsqueeze(0))
    torch.testing.assert_close(found.distances, expected, atol=1e-6, rtol=1e-6)


def test_the_same_matrices_opposite_ones_and_none() -> None:
    one = matrices(1)
    found = streamed(torch.cat([one, one, -one, torch.zeros_like(one), torch.zeros_like(one)])).result()
    relative = relative_distance(found.distances, found.norms)
    assert relative[0, 1] < 1e-7
    assert relative[0, 2].item() == pytest.approx(2**0.5)
    assert relative[0, 3].item() == pytest.approx(1.0)
    assert relative[3, 4] == 0.0


def test_independent_matrices_are_as_far_as_orthogonal_ones() -> None:
    found = streamed(torch.randn(4, 100, 100, generator=torch.Generator().manual_seed(1)), 1000).result()
    relative = relative_distance(found.distances, found.norms)
    torch.testing.assert_close(relative[~torch.eye(4, dtype=torch.bool)], torch.ones(12).double(), atol=0.03, rtol=0)


def test_the_broken_block_is_named() -> None:
    broken = matrices()
    broken[3, 2, 2] = torch.nan
    with pytest.raises(InputError, match=r"fc1\.weight of block 3 holds NaN"):
        streamed(broken)
