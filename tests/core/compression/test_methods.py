"""Compression of weights against its laws: counts, levels, errors, ranks."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from tasks.core.blocks.factored import linear_shapes, put_factors
from tasks.core.compression.methods import factors, product, pruned, quantised, relative_error, seed_of
from tasks.core.compression.settings import Compression, is_worth_two, part_of, rank_within
from tasks.core.errors import InputError


def weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ratio", [0.01, 0.29, 0.5, 0.999])
def test_pruning_zeroes_exactly_the_smallest(ratio: float) -> None:
    before = weight(20, 5)
    after = pruned(before, ratio)
    count = math.floor(round(ratio * 100, 6))
    assert int((after == 0).sum()) == count
    kept = after != 0
    assert torch.equal(after[kept], before[kept])
    if count:
        assert before[~kept].abs().max() <= before[kept].abs().min()


def test_pruning_counts_exactly_among_equal_entries_and_zeros() -> None:
    after = pruned(torch.ones(4, 5), 0.5)
    assert int((after == 0).sum()) == 10
    half = torch.cat([torch.zeros(2, 5), torch.ones(2, 5)])
    assert torch.equal(pruned(half, 0.3), half)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_quantised_values_are_few_and_near(bits: int, offset: float) -> None:
    before = weight(64, 32) + offset
    after = quantised(before, bits)
    step = float(before.max() - before.min()) / (2**bits - 1)
    assert after.unique().numel() <= 2**bits
    assert float((after - before).abs().max()) <= step / 2 + 1e-6
    # Both ends are levels, and all levels lie whole steps apart.
    assert float(after.min()) == pytest.approx(float(before.min()), abs=1e-5)
    assert float(after.max()) == pytest.approx(float(before.max()), abs=1e-5)
    places = (after.double() - float(before.min())) / step
    assert float((places - places.round()).abs().max()) < 1e-2
    if 1 < bits <= 4:
        # The published rounding, to whole steps from the zero point, has one level more.
        zero = (before.max() + before.min()) / 2
        assert ((before - zero) / step).round().unique().numel() == 2**bits + 1


def test_a_constant_weight_stays() -> None:
    assert torch.equal(quantised(torch.full((3, 3), 0.7), 4), torch.full((3, 3), 0.7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_number_formats_stay(dtype: torch.dtype) -> None:
    given = weight(8, 6).to(dtype)
    assert {pruned(given, 0.5).dtype, quantised(given, 4).dtype, *[f.dtype for f in factors(given, 2, "topk", 0)]} == {
        dtype
    }


def test_topk_is_the_closest_weight_of_its_rank() -> None:
    """Eckart-Young: the error is the root of the sum of the squares of what is left out."""
    given = weight(12, 9)
    values = torch.linalg.svdvals(given)
    for rank in (1, 4, 8):
        outer, inner = factors(given, rank, "topk", 0)
        assert (tuple(outer.shape), tuple(inner.shape)) == ((12, rank), (rank, 9))
        expected = float(values[rank:].norm() / values.norm())
        assert relative_error(given, product(outer, inner)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("choice", ["topk", "sampling", "lowrank"])
def test_at_full_rank_nothing_is_lost(choice: str) -> None:
    given = weight(12, 9)
    assert product(*factors(given, 9, choice, 3)) == pytest.approx(given, abs=1e-5)


@pytest.mark.parametrize("choice", ["sampling", "lowrank"])
def test_drawn_factors_are_a_function_of_their_seed(choice: str) -> None:
    given, state = weight(12, 9), torch.get_rng_state()
    first, again, other = (factors(given, 3, choice, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers are used"


def test_larger_singular_values_are_drawn_more_often() -> None:
    given = torch.diag(torch.tensor([8.0, 1.0, 1.0]))
    largest = [float(product(*factors(given, 1, "sampling", seed)).max()) for seed in range(400)]
    assert {round(value) for value in largest} == {1, 8}
    # A share of 0.8 is expected; 400 draws have a standard error of 0.02.
    assert sum(value > 4 for value in largest) / 400 == pytest.approx(0.8, abs=0.08)


def test_a_weight_with_fewer_values_than_are_drawn() -> None:
    given = torch.zeros(4, 4)
    given[0, 0] = 1.0
    assert product(*factors(given, 3, "sampling", 0)) == pytest.approx(given, abs=1e-6)


def test_seeds_differ_by_name() -> None:
    assert len({seed_of(seed, name) for seed in (0, 1) for name in ("1.a", "1.b")}) == 4


def test_two_factors_cost_what_was_predicted() -> None:
    block = torch.nn.ModuleDict({"dense": torch.nn.Linear(48, 32), "old": Conv1D(20, 48)})
    hidden, rank = weight(7, 48), 5
    before = {name: module(hidden) for name, module in block.items()}
    biases = {name: module.bias.detach().clone() for name, module in block.items()}
    for path, shape in linear_shapes(block).items():
        dense = block[path].weight.detach()
        pair = factors(dense.T if shape.is_transposed else dense, rank, "topk", 0)
        put_factors(block, path, *pair)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            found = block[path](hidden)
        assert counter.get_total_flops() == 2 * 7 * rank * (shape.num_in + shape.num_out)
        assert found == pytest.approx(hidden @ product(*pair).T + biases[path], abs=1e-5)
        assert found.shape == before[path].shape


def test_ranks_and_shares() -> None:
    assert part_of(0.29, 100) == 29
    assert (rank_within(3, 10, 4), rank_within(8, 10, 4), rank_within(0.5, 10, 5)) == (3, 4, 2)
    with pytest.raises(InputError, match=r"^rank = 0.1: of a weight of 4 x 10 that is rank 0; take at least"):
        rank_within(0.1, 10, 4)
    assert is_worth_two(2, 10, 4)
    assert not is_worth_two(3, 10, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "shrink"}, "choose from prune, quantise, low_rank"),
        ({"method": "prune"}, '^method = "prune" needs ratio$'),
        ({"method": "prune", "ratio": 1.0}, "larger than 0 and less than 1"),
        ({"method": "quantise", "bits": 17}, "bits = 17; it must be at least 1 and at most 16"),
        (
            {"method": "low_rank", "rank": 1.5},
            "must be a whole number, or larger than 0 and less than 1",
        ),
        ({"method": "low_rank", "rank": 2, "rank_choice": "best"}, "choose from topk, sampling, lowrank"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Compression(**settings)


def test_what_a_method_does_not_use_is_in_no_key() -> None:
    assert Compression("prune", ratio=0.5, bits=4, seed=3).cache_view() == {"method": "prune", "ratio": 0.5}
    assert "seed" not in Compression("low_rank", rank=4, seed=3).cache_view()
    assert "seed" in Compression("low_rank", rank=4, rank_choice="sampling", seed=3).cache_view()
