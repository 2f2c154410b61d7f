"""Changes of tuned blocks, and those that are worth a look."""

import pytest
import torch

from tasks.core.tuning.changes import BlockChange, alarms, largest_direction, measure_changes, not_tunings


def blocks(seed: int, size: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"0.a": (12, 8), "0.b": (8,), "3.a": (12, 8), "3.b": (8,)}
    return {name: size * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def added(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: first[name] + second[name] for name in first}


def test_changes_are_those_of_the_definition() -> None:
    before, moved = blocks(0), blocks(1, 0.1)
    found = measure_changes(before, added(before, moved))
    for block in (0, 3):
        names = [f"{block}.a", f"{block}.b"]
        change = torch.cat([moved[name].flatten() for name in names]).norm()
        whole = torch.cat([before[name].flatten() for name in names]).norm()
        assert found[block].moved == pytest.approx(float(change / whole), rel=1e-5)
        assert found[block].matrix == f"{block}.a"


def test_the_largest_direction_is_that_of_the_singular_values() -> None:
    change = blocks(2)["0.a"].double()
    change += 5 * torch.outer(torch.ones(12), torch.ones(8)).double()
    values = torch.linalg.svdvals(change).square()
    assert largest_direction(change) == pytest.approx(float(values[0] / values.sum()), rel=1e-6)


def test_an_honest_tuning_raises_no_alarm() -> None:
    before = blocks(0)
    assert alarms(measure_changes(before, added(before, blocks(1, 0.05))), has_factors=False) == []


def test_what_honest_tunings_do_not_do_is_named() -> None:
    changes = {
        0: BlockChange(0.5, 0.1, "0.a"),
        3: BlockChange(0.0, 0.0, ""),
        5: BlockChange(0.01, 0.95, "5.a"),
        7: BlockChange(0.01, 0.1, "7.a"),
    }
    assert alarms(changes, has_factors=False) == [
        "block 0 moved by 50% of its norm; tunings move blocks by less than 30%",
        "block 3 did not change at all",
        "block 0 moved 50 times as far as the other blocks",
        "95% of the change of 5.a lie along one direction",
    ]
    assert not any("direction" in each for each in alarms(changes, has_factors=True))


def test_blocks_of_zeros_and_blocks_scaled_up_are_no_tunings() -> None:
    before = blocks(0)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    assert not_tunings(measure_changes(before, zeros)) == [0, 3]
    assert not_tunings(measure_changes(before, {name: 1000 * tensor for name, tensor in before.items()})) == [0, 3]
    assert not_tunings(measure_changes(before, added(before, blocks(1, 0.1)))) == []


def test_equal_blocks_did_not_change() -> None:
    before = blocks(0)
    found = measure_changes(before, before)
    assert {each.moved for each in found.values()} == {0.0}
    assert len(alarms(found, has_factors=False)) == 2
