"""Surveys of lines and planes equal measuring every point by itself; barriers of known curves."""

import math

import pytest
import torch
from torch import nn

from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.errors import InputError
from tasks.core.study.interpolation import Mixture, differences
from tasks.core.study.landscape import Measured, barrier, grid, plane_order, survey
from tests.core.study.test_importance import naive, rows
from tests.core.study.test_interpolation import tuned
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model

NUM_TOKENS = torch.tensor([len(row.answer_ids) for row in rows()])


def measure(model: nn.Module) -> Measured:
    losses = naive(model)
    return Measured(float(losses.sum() / NUM_TOKENS.sum()), 0.0, losses, NUM_TOKENS)


def count_runs(model: nn.Module) -> list[int]:
    """Filled with the index of each block whose own code runs."""
    ran: list[int] = []
    for index, block in enumerate(get_blocks(model)):
        next(block.children()).register_forward_hook(lambda *_, index=index: ran.append(index))
    return ran


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("first", "second"), [([2, 4], [4, 5]), ([5], [1, 3])], ids=["x below", "y below"])
def test_a_plane_equals_every_point_by_itself(family: str, first: list[int], second: list[int]) -> None:
    model = tiny_model(family)
    others = [tuned(model, first, 1), tuned(model, second, 2)]
    mixture = Mixture(model, {}, [differences(model, other, "x") for other in others])
    values = grid(-1, 1, 3)
    order = plane_order(mixture, values, values)
    places = [(values[i], values[j]) for i, j in order]
    found = dict(zip(places, survey(mixture, places, measure), strict=True))
    assert len(found) == 9
    for place, model_there in [((0, 0), model), ((1, 0), others[0]), ((0, 1), others[1])]:
        assert torch.equal(found[place].row_losses, naive(model_there))
    for place, here in found.items():
        # In another order, without any memory of the points before.
        mixture.set((7.0, 7.0))
        mixture.set(place)
        assert torch.equal(naive(mixture.model), here.row_losses)
    assert len({each.loss for each in found.values()}) == 9


def test_what_lies_below_runs_once() -> None:
    model = tiny_model("llama")
    mixture = Mixture(
        model, {}, [differences(model, tuned(model, blocks, 1), "x") for blocks in ([2, 5], [4])]
    )  # the outer axis changes blocks 2 and 5, the inner one block 4
    ran, values = count_runs(mixture.model), grid(-1, 1, 5)
    places = [(values[i], values[j]) for i, j in plane_order(mixture, values, values)]
    measure(mixture.model)
    num_passes = ran.count(0)
    ran.clear()
    survey(mixture, places, measure)
    assert [ran.count(index) // num_passes for index in range(NUM_BLOCKS)] == [1, 1, 5, 5, 25, 25]
    ran.clear()
    survey(mixture, places, measure, max_bytes=0)
    assert [ran.count(index) // num_passes for index in range(NUM_BLOCKS)] == [25] * NUM_BLOCKS


def curve(losses: list[float], metrics: list[float] | None = None) -> list[Measured]:
    return [Measured(*pair) for pair in zip(losses, metrics or losses, strict=True)]


def test_barrier_of_a_known_quadratic() -> None:
    places = grid(0, 1, 25)
    # L(t) = 2 + t + 4 h t (1 - t): a bump of height h in the middle of a slope.
    hill = barrier(places, curve([2 + t + 4 * 0.3 * t * (1 - t) for t in places]))
    assert (hill.height, hill.place, hill.relative) == pytest.approx((0.3, 0.5, 0.3 / 2.5))
    assert not hill.connected
    assert hill.metric_drop == pytest.approx(0.3)
    # A bowl: between its rims everything is lower.
    bowl = barrier(places, curve([1 + (t - 0.5) ** 2 for t in places]))
    assert (bowl.height, bowl.relative, bowl.connected, bowl.metric_drop) == (0, 0, True, 0)
    # One per cent is connected, three are not.
    assert barrier(places, curve([1 + 0.04 * t * (1 - t) for t in places])).connected
    assert not barrier(places, curve([1 + 0.12 * t * (1 - t) for t in places])).connected


def test_the_drop_of_an_accuracy() -> None:
    found = curve([1.0, 1.0, 1.0], [0.8, 0.5, 0.6])
    assert barrier([0.0, 0.5, 1.0], found, higher_is_better=True).metric_drop == pytest.approx(0.2)
    assert barrier([0.0, 0.5, 1.0], found).metric_drop == 0


def test_the_error_of_a_barrier_is_that_of_paired_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(3, 400, generator=generator, dtype=torch.float64) + 1
    losses[1] += 0.5
    ones = torch.ones(400)
    found = [Measured(float(each.mean()), 0.0, each, ones) for each in losses]
    expected = (losses[1] - (losses[0] + losses[2]) / 2).std() / 20
    assert barrier([0.0, 0.5, 1.0], found).stderr == pytest.approx(float(expected), rel=1e-6)
    # The difficulty of a row is in all three, so it is no part of the error.
    hard = [Measured(float((each * 0 + height + losses[0]).mean()), 0.0, height + losses[0], ones)
            for each, height in zip(losses, (1.0, 2.0, 1.0), strict=True)]  # fmt: skip
    assert barrier([0.0, 0.5, 1.0], hard).stderr == pytest.approx(0, abs=1e-9)
    assert barrier([0.0, 0.5, 1.0], curve([1.0, 2.0, 1.0])).stderr is None


def test_grids_hold_the_models_exactly() -> None:
    assert grid(-4, 4, 25)[12] == 0.0
    assert grid(-4, 4, 25)[15] == 1.0
    assert (grid(0, 1, 25)[0], grid(0, 1, 25)[-1]) == (0.0, 1.0)
    for begin, end, num_points in [(0, 1, 1), (1, 1, 5), (2, 1, 5)]:
        with pytest.raises(InputError, match="are no axis"):
            grid(begin, end, num_points)


def test_a_path_that_is_not_finite() -> None:
    with pytest.raises(InputError, match=r"not finite at t = 0\.5 of the path from point 'initial' to 'crash'"):
        barrier([0.0, 0.5, 1.0], curve([1.0, math.nan, 1.0]), names=("initial", "crash"))
