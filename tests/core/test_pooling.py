"""All poolings against loops over tokens, whatever the side and amount of padding."""

import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.pooling import POOLINGS, pool

LENGTHS = (3, 1, 5)
WIDTH = 4


def rows() -> list[torch.Tensor]:
    """Token states [length, width] of each example."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, WIDTH, generator=generator) for length in LENGTHS]


def padded(side: str, length: int, filling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The examples as one batch [B, length, width], and its mask."""
    hidden = torch.full((len(LENGTHS), length, WIDTH), filling)
    mask = torch.zeros(len(LENGTHS), length, dtype=torch.long)
    for index, row in enumerate(rows()):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        hidden[index, place] = row
        mask[index, place] = 1
    return hidden, mask


def by_loop(row: torch.Tensor, mode: str) -> torch.Tensor:
    """The formula, token by token."""
    if mode == "mean_weighted":
        weights = [t + 1 for t in range(len(row))]
        return sum(weight * x for weight, x in zip(weights, row, strict=True)) / sum(weights)  # type: ignore[return-value]
    if mode == "mean":
        return sum(row) / len(row)  # type: ignore[arg-type, return-value]
    if mode == "last":
        return row[-1]
    extreme = max if mode == "max_nonpad" else min
    return torch.stack([extreme(row[:, column]) for column in range(WIDTH)])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", ["mean_weighted", "mean", "max_nonpad", "min", "last"])
def test_equals_a_loop_over_real_tokens(mode, side):
    expected = torch.stack([by_loop(row, mode) for row in rows()])
    # NaN as padding: what a model writes there must never reach the result.
    for length, filling in [(5, 7.0), (9, -1e30), (9, float("nan"))]:
        torch.testing.assert_close(pool(*padded(side, length, filling), mode), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_mean_all_and_max_see_padding(side):
    hidden, mask = padded(side, 6, 9.0)
    torch.testing.assert_close(pool(hidden, mask, "mean_all"), hidden.sum(1) / 6)
    assert torch.equal(pool(hidden, mask, "max"), torch.full((3, WIDTH), 9.0))


def test_mean_all_and_max_equal_loops_over_all_positions():
    for length in (5, 8):
        hidden, mask = padded("right", length, -9.0)
        columns = [[row[:, column].tolist() for column in range(WIDTH)] for row in hidden]
        mean = torch.tensor([[sum(values) / length for values in row] for row in columns])
        torch.testing.assert_close(pool(hidden, mask, "mean_all"), mean)
        assert torch.equal(
            pool(hidden, mask, "max"), torch.tensor([[max(values) for values in row] for row in columns])
        )


def test_mean_weighted_by_hand():
    # Real tokens 6 and 3 count once and twice: (1 * 6 + 2 * 3) / 3.
    hidden = torch.tensor([[[100.0], [6.0], [3.0], [100.0]]])
    assert pool(hidden, torch.tensor([[0, 1, 1, 0]]), "mean_weighted").item() == 4.0


@pytest.mark.parametrize("mode", ["mean_weighted", "mean", "max_nonpad", "min", "last"])
def test_a_hole_in_the_mask_is_skipped(mode):
    hidden, mask = torch.full((1, 7, WIDTH), float("nan")), torch.zeros(1, 7)
    places = [1, 3, 4]
    hidden[0, places], mask[0, places] = rows()[0], 1
    torch.testing.assert_close(pool(hidden, mask, mode)[0], by_loop(rows()[0], mode))


@pytest.mark.parametrize("mode", POOLINGS)
def test_results_are_float32(mode):
    hidden, mask = padded("right", 5, 0.0)
    result = pool(hidden.bfloat16(), mask.bool(), mode)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, pool(hidden.bfloat16().float(), mask, mode))


def test_there_are_seven():
    assert len(POOLINGS) == 7


def test_an_empty_row_is_named():
    hidden, mask = padded("right", 5, 0.0)
    mask[1] = 0
    with pytest.raises(InputError, match="row 1 of the batch has no token"):
        pool(hidden, mask)


def test_an_unknown_mode_lists_the_choices():
    with pytest.raises(InputError, match="choose from mean_weighted, mean, mean_all"):
        pool(*padded("right", 5, 0.0), "median")
