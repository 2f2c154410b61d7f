"""Several processes tune one model as one process does: gradients, best states, checkpoints, and every way to end."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.core.batching import training_batch
from tasks.core.blocks.locate_blocks import get_stack
from tasks.core.blocks.surgery import get_blocks, tuned_state, with_layout
from tasks.core.errors import CrashError
from tasks.core.plan.layout import Plan
from tasks.core.tuning.parallel import ShardedTeam, tied_blocks
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import TrainResult, train
from tasks.core.tuning.trainable import TunedBlocks
from tests.core.pair import Pair, pair
from tests.core.tiny_models import FAMILIES, tiny_model
from tests.core.tuning.test_train import PLAN, SHARED, Kept, emulator, examples

__all__ = ["pair"]

# An odd batch and an odd number of rows, so that parts, passes and last batches differ; two or three passes a step.
# Adam scales up the rounding of gradients that are almost zero to a share of the rate, so the rate is a small one.
SETTINGS = TrainSettings(
    learning_rate=1e-4,
    num_steps=8,
    batch_size=5,
    max_tokens=17,
    checkpoint_steps=3,
    eval_steps=2,
    seed=3,
    weight_decay=0.1,
    schedule="constant",
)
MODES = ["data", "sharded"]
# Blocks that return a view, a tuple, and a tensor of their own; the other families are for the slow sweep.
SOME = ["opt", "gptj", "gemma3"]
OTHERS = [family for family in FAMILIES if family not in SOME]
# Result, tuned tensors, metrics by step, saves, error.
Outcome = tuple[TrainResult | None, dict[str, Tensor], dict[int, dict[str, float]], list, str]


def run(rank: int, model: nn.Module, plan: Plan, settings: TrainSettings, parallel: str, **options: Any) -> Outcome:
    """One tuning, by this process alone or by all of a group. saved: a checkpoint; stop: (rank, step) to stop at."""
    kept, seen = Kept(options.pop("saved", None)), dict[int, dict[str, float]]()
    stop, step = options.pop("stop", None), iter(range(1, 1000))
    given = {
        "checkpoint": kept,
        "on_metrics": lambda number, values: seen.update({number: values}),
        "should_stop": lambda: (rank, next(step)) == stop,
    }
    rows, validation = options.pop("rows", examples(11)), options.pop("validation", examples(5, seed=9))
    num_saves = len(kept.saves)
    try:
        result = train(TunedBlocks(model, plan), rows, validation, settings, parallel=parallel, **given | options)
    except CrashError as error:
        return None, {}, seen, kept.saves[num_saves:], f"{type(error).__name__}: {error}"
    state, result.state = {name: tensor.detach().clone() for name, tensor in result.state.items()}, {}
    return result, state, seen, kept.saves[num_saves:], ""


def tuned_by_all(rank: int, parallel: str, family: str, plan: Plan, settings: TrainSettings, options: dict) -> Outcome:
    """What each process of a pair does."""
    return run(rank, emulator(plan, options.pop("dropout", 0.0), family), plan, settings, parallel, **options)


def alone(family: str = "llama", plan: Plan = SHARED, settings: TrainSettings = SETTINGS, **options: Any) -> Outcome:
    """The same in this process."""
    return run(0, emulator(plan, 0.0, family), plan, settings, "layers", **options)


def require_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Fail unless all values are equal to 1e-5, where they moved by more."""
    assert found.keys() == expected.keys() != set()
    for name, tensor in expected.items():
        # A bias of keys shifts all scores of a query alike: its gradient is rounding noise, which Adam scales up.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=name)


def require_equal(found: Outcome, expected: Outcome) -> None:
    """Fail unless the tuned tensors have the same bits."""
    assert found[1].keys() == expected[1].keys() != set()
    assert all(torch.equal(found[1][name], tensor) for name, tensor in expected[1].items())


@pytest.mark.parametrize("parallel", MODES)
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_two_processes_end_with_the_weights_of_one(pair: Pair, family: str, parallel: str) -> None:
    expected = alone(family)
    first, second = pair.run(tuned_by_all, parallel, family, SHARED, SETTINGS, {})
    require_close(first[1], expected[1])
    before = tuned_state(emulator(SHARED, 0.0, family), SHARED)
    assert max(float((before[name] - tensor).abs().max()) for name, tensor in first[1].items()) > 20e-5
    assert (first[0].num_processes, expected[0].num_processes) == (2, 1)
    for name in ("best_step", "num_parameters", "num_tokens", "num_steps"):
        assert getattr(first[0], name) == getattr(second[0], name) == getattr(expected[0], name), name
    if family == "llama":
        assert first[0].best_step < 8, "the case must have its best state before the end"
    for step, values in expected[2].items():
        for name in values.keys() - {"tokens_per_second"}:
            assert first[2][step][name] == second[2][step][name] == pytest.approx(values[name], rel=1e-4), name
    assert [facts["step"] for _, facts in first[3]] == [3, 6]
    assert not second[3], "one process writes"


@pytest.mark.parametrize("parallel", MODES)
@pytest.mark.parametrize(
    ("changes", "validation"),
    [({"batch_size": 1}, 1), ({"batch_size": 3, "max_tokens": 1}, 4), ({"max_tokens": 999}, 0)],
)
def test_where_parts_are_uneven_or_empty(pair: Pair, parallel: str, changes: dict, validation: int) -> None:
    settings = replace(SETTINGS, num_steps=5, **changes)
    options = {"validation": examples(validation, seed=9)}
    expected = alone(settings=settings, **options)
    first, _ = pair.run(tuned_by_all, parallel, "llama", SHARED, settings, options)
    require_close(first[1], expected[1])
    assert [values["loss"] for values in first[2].values()] == pytest.approx(
        [values["loss"] for values in expected[2].values()], rel=1e-5
    )


@pytest.mark.parametrize("family", SOME + [pytest.param(name, marks=pytest.mark.nightly) for name in OTHERS])
def test_every_family_can_be_sharded(pair: Pair, family: str) -> None:
    settings = replace(SETTINGS, num_steps=2, learning_rate=1e-5)
    expected = still(0, "layers", family, settings)
    first, _ = pair.run(still, "sharded", family, settings)
    assert first[2][2]["loss"] == pytest.approx(expected[2][2]["loss"], rel=1e-5)
    assert first[2][2]["gradient_norm"] == pytest.approx(expected[2][2]["gradient_norm"], rel=1e-4)


def still(rank: int, parallel: str, family: str, settings: TrainSettings) -> Outcome:
    """A tuning without dropout, wherever a family has it."""
    model = emulator(SHARED, family=family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return run(rank, model, SHARED, settings, parallel)


@pytest.mark.parametrize("parallel", MODES)
def test_stopped_anywhere_it_goes_on_with_two_or_with_one(pair: Pair, parallel: str) -> None:
    whole, _ = pair.run(tuned_by_all, parallel, "llama", SHARED, SETTINGS, {})
    first, second = pair.run(tuned_by_all, parallel, "llama", SHARED, SETTINGS, {"stop": (1, 4)})
    assert first[4] == second[4] == "InterruptedRun: stopped after step 4 of 8; run again to continue"
    assert list(first[2]) == list(second[2]) == [1, 2, 3, 4]
    checkpoint = first[3][-1]
    assert (checkpoint[1]["step"], checkpoint[1]["num_processes"], len(second[3])) == (4, 2, 0)
    again, _ = pair.run(tuned_by_all, parallel, "llama", SHARED, SETTINGS, {"saved": checkpoint})
    require_equal(again, whole)
    assert list(again[2]) == [5, 6, 7, 8]
    require_close(alone(saved=checkpoint)[1], whole[1])


@pytest.mark.parametrize("parallel", MODES)
def test_what_one_began_two_finish(pair: Pair, parallel: str) -> None:
    stopped = alone(stop=(0, 5))
    assert stopped[4].startswith("InterruptedRun")
    first, _ = pair.run(tuned_by_all, parallel, "llama", SHARED, SETTINGS, {"saved": stopped[3][-1]})
    require_close(first[1], alone()[1])


def test_a_checkpoint_of_several_holds_what_one_of_one_does(pair: Pair) -> None:
    [expected] = {tuple(sorted((name, value.shape) for name, value in save[0].items())) for save in alone()[3]}
    for parallel in MODES:
        first, _ = pair.run(tuned_by_all, parallel, "llama", SHARED, SETTINGS, {})
        for tensors, _ in first[3]:
            assert tuple(sorted((name, value.shape) for name, value in tensors.items())) == expected


@pytest.mark.parametrize("parallel", MODES)
def test_dropout_differs_by_process_and_survives_a_stop(pair: Pair, parallel: str) -> None:
    settings, dropout = replace(SETTINGS, learning_rate=1e-3), {"dropout": 0.3}
    whole, _ = pair.run(tuned_by_all, parallel, "opt", PLAN, settings, dropout)
    stopped, _ = pair.run(tuned_by_all, parallel, "opt", PLAN, settings, dropout | {"stop": (0, 5)})
    again, _ = pair.run(tuned_by_all, parallel, "opt", PLAN, settings, dropout | {"saved": stopped[3][-1]})
    require_equal(again, whole)
    # The same row twice: only what drops out differs.
    same = replace(settings, batch_size=2, num_steps=1, eval_steps=None)
    rows = [examples(1)[0]] * 2
    first, _ = pair.run(tuned_by_all, parallel, "opt", PLAN, same, dropout | {"rows": rows})
    one, _ = pair.run(tuned_by_all, parallel, "opt", PLAN, same, dropout | {"rows": rows[:1]})
    assert first[2][1]["loss"] != pytest.approx(one[2][1]["loss"], rel=1e-6)


def diverging(rank: int, parallel: str, bad_rank: int) -> tuple[Outcome, bool]:
    """A tuning whose gradient breaks in one process at the third step; whether all tuned tensors stayed as saved."""
    model = emulator(PLAN, family="llama")
    num_passes = iter(range(1, 1000))
    block = get_blocks(model)[2]
    limit = 5  # two passes a step

    def spoil(gradient: Tensor) -> Tensor:
        return gradient * float("nan") if next(num_passes) >= limit and rank == bad_rank else gradient

    block.register_forward_hook(lambda _, __, output: output.register_hook(spoil) and None)
    settings = replace(SETTINGS, batch_size=4, max_tokens=8, checkpoint_steps=1, eval_steps=None)
    outcome = run(rank, model, PLAN, settings, parallel, rows=examples(12))
    state = {
        name: getattr(tensor, "full_tensor", lambda own=tensor: own)()
        for name, tensor in tuned_state(model, PLAN).items()
    }
    last = outcome[3][-1][0] if outcome[3] else {}
    return outcome, all(torch.equal(state[name], last[f"tuned/{name}"]) for name in state) if last else rank != 0


@pytest.mark.parametrize("parallel", MODES)
def test_a_number_that_is_not_finite_anywhere_stops_all_before_the_step(pair: Pair, parallel: str) -> None:
    (first, unchanged), (second, _) = pair.run(diverging, parallel, 1)
    rows = [examples(12)[index].row for index in training_batch(12, 4, SETTINGS.seed, 2)]
    assert first[4] == second[4]
    assert first[4].startswith("DivergedError: the gradient is not finite at step 3 of 8")
    assert f"training rows {rows}" in first[4]
    assert "the checkpoint of step 2 is untouched" in first[4]
    assert unchanged, "the tuned tensors are those of the last checkpoint"


def scarce(rank: int, parallel: str, bad_ranks: tuple[int, ...], faults: int) -> Outcome:
    """A tuning in which a pass of the second step does not fit, in some processes."""
    model = emulator(PLAN, family="llama")
    num_passes = iter(range(1, 1000))

    def after(*_: Any) -> None:
        if model.training and 3 <= next(num_passes) < 3 + faults and rank in bad_ranks:
            raise torch.OutOfMemoryError("CUDA out of memory")

    get_stack(model).register_forward_hook(after)
    settings = replace(SETTINGS, batch_size=4, max_tokens=999, learning_rate=2e-5, checkpoint_steps=1)
    return run(rank, model, PLAN, settings, parallel)


def test_one_process_without_memory_makes_all_cut_finer(pair: Pair) -> None:
    expected = pair.run(scarce, "data", (), 0)[0]
    first, second = pair.run(scarce, "data", (1,), 1)
    assert first[0].out_of_memory_step == second[0].out_of_memory_step == 3
    assert first[0].max_tokens == second[0].max_tokens
    require_close(first[1], expected[1])
    for outcome in pair.run(scarce, "data", (0,), 2):
        assert outcome[4].startswith("EnvironmentFault: out of memory after 2 of 8 steps, although")


def test_shares_without_memory_end_with_advice(pair: Pair) -> None:
    for outcome in pair.run(scarce, "sharded", (0, 1), 1):
        assert outcome[4].startswith("EnvironmentFault: out of memory after 2 of 8 steps; the checkpoint of step 2")


def shares(rank: int) -> dict[str, Any]:
    """What a process holds of a model that is sharded, with every tensor counted once."""
    model = with_layout(tiny_model("llama"), SHARED)
    before = sum(parameter.numel() for parameter in model.parameters())
    sources = [source for source, _ in SHARED.layout]
    ShardedTeam(torch.device("cpu")).wrap(TunedBlocks(model, SHARED))
    tied = {}
    for source, block in zip(sources, get_blocks(model), strict=True):
        first = next(block.parameters())
        tied.setdefault((source, first.requires_grad), set()).add(id(first))
    local = sum(parameter.to_local().numel() for parameter in model.parameters())
    return {"before": before, "local": local, "tied": [len(tensors) for tensors in tied.values()]}


def test_each_process_holds_a_share_and_shared_blocks_once(pair: Pair) -> None:
    first, second = pair.run(shares)
    assert first["before"] == first["local"] + second["local"]
    assert first["local"] == pytest.approx(first["before"] / 2, rel=0.05)
    assert first["tied"] == [1] * len(first["tied"])
    groups = tied_blocks(with_layout(tiny_model("llama"), SHARED))
    assert max(map(len, groups)) > 1, "the plan must share blocks"


@pytest.mark.parametrize("parallel", MODES)
def test_narrow_computing_keeps_tuned_blocks_wide(pair: Pair, parallel: str) -> None:
    options = {"precision": "bfloat16"}
    expected = alone("opt", **options)
    first, _ = pair.run(tuned_by_all, parallel, "opt", SHARED, SETTINGS, options)
    assert {tensor.dtype for tensor in first[1].values()} == {torch.float32}
    assert first[2][1]["loss"] == pytest.approx(expected[2][1]["loss"], rel=1e-2)
