"""Distillation: the published loss and its generalisation against plain code, what is trained, and that it teaches."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.core.batching import Batch, Example, collate, prepend_ids
from tasks.core.blocks.soft_prompt import prompt_ids, prompt_parameters
from tasks.core.blocks.surgery import capture_blocks, get_blocks, rearranged, with_layout
from tasks.core.errors import InputError, InterruptedRun
from tasks.core.plan.layout import Plan, fixed_plan, full_plan, uniform_plan
from tasks.core.tuning.distilling import FrozenBlocks, Segment, segments
from tasks.core.tuning.losses import AnswerLoss
from tasks.core.tuning.settings import Elevation, TrainSettings
from tasks.core.tuning.train import train
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, VOCABULARY, tiny_model
from tests.core.tuning.test_train import Kept

OFT = uniform_plan(NUM_BLOCKS, 5, 4)
REMOVED = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3))
SHARED = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3), "all")
WEIGHT = 30.0
SETTINGS = TrainSettings(learning_rate=1e-3, num_steps=6, batch_size=4, checkpoint_steps=2, seed=3)


def rows(count: int = 8, seed: int = 0) -> list[Example]:
    """Windows of different lengths: one token before, all others predicted."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, VOCABULARY, (6 + n % 4,), generator=generator).tolist() for n in range(count)]
    return [Example((row[0],), tuple(row[1:]), number) for number, row in enumerate(ids)]


def frozen_blocks(family: str, plan: Plan, hidden_weight: float = WEIGHT, **options: Any) -> FrozenBlocks:
    """As the loop prepares it: only what is trained requires gradients."""
    full = tiny_model(family)
    trained = FrozenBlocks(with_layout(full, plan), plan, tiny_model(family), hidden_weight, **options)
    chosen = {id(parameter) for parameter in trained.parameters()}
    for parameter in trained.model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return trained


def plain_states(model: torch.nn.Module, batch: Batch) -> list[Tensor]:
    with torch.no_grad(), capture_blocks(model) as run:
        return run(batch.input_ids, batch.attention_mask)


def plain_loss(family: str, plan: Plan, batch: Batch) -> Tensor:
    """Row by row, from whole forward passes: the teacher's part is reached by a model put together for it."""
    full, emulator = tiny_model(family), with_layout(tiny_model(family), plan)
    sources = [source for source, _ in plan.layout]
    total = torch.zeros(())
    for row in range(len(batch.rows)):
        length = int(batch.attention_mask[row].sum())
        one = Batch(
            *(part[row : row + 1, :length] for part in (batch.input_ids, batch.attention_mask, batch.labels)), (0,)
        )
        with torch.no_grad():
            lm = emulator(one.input_ids, labels=one.labels, use_cache=False).loss
        states, hidden = plain_states(emulator, one), []
        for (first, last), (low, high) in segments(plan):
            hybrid = rearranged(full, [(block, False) for block in [*sources[:first], *range(low, high + 1)]])
            taught, state = plain_states(hybrid, one)[-1][0, :-1], states[last + 1][0, :-1]
            hidden.append(((taught - state) / taught.pow(2).mean().sqrt()).pow(2).mean())
        total = total + (length - 1) * (lm + WEIGHT * torch.stack(hidden).mean())
    return total


@pytest.mark.parametrize("plan", [OFT, REMOVED, SHARED], ids=["oft", "removed", "shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_equals_a_plain_one_on_every_family(family: str, plan: Plan) -> None:
    batch = collate(rows(3), 0)
    summed, count = frozen_blocks(family, plan).make_loss()(batch)
    assert count == sum(len(row.answer_ids) for row in rows(3))
    torch.testing.assert_close(summed.detach(), plain_loss(family, plan, batch), rtol=2e-4, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_offsite_tuning_the_target_is_the_full_models_own_state(family: str) -> None:
    """One segment behind blocks that both have: the published loss needs no pass of its own."""
    batch = collate([rows(1)[0]], 0)
    trained = frozen_blocks(family, OFT)
    trained.make_loss()(batch)
    taught = plain_states(tiny_model(family), batch)[NUM_BLOCKS - 2][0, :-1]
    state = plain_states(with_layout(tiny_model(family), OFT), batch)[3][0, :-1]
    expected = ((taught - state) / taught.pow(2).mean().sqrt()).pow(2).mean()
    assert trained.parts.take()["hidden_loss"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_every_block_kept_there_is_nothing_to_learn_from_the_teacher(family: str) -> None:
    plan = fixed_plan(NUM_BLOCKS, range(NUM_BLOCKS), (0, 3))
    trained, alone = frozen_blocks(family, plan), frozen_blocks(family, plan, hidden_weight=0.0)
    for each in (trained, alone):
        each.make_loss()(collate(rows(2), 0))[0].backward()
    assert trained.parts.take()["hidden_loss"] == 0.0
    for parameter, other in zip(trained.parameters(), alone.parameters(), strict=True):
        # What is left is the gradient of the LM loss.
        assert torch.equal(parameter.grad, other.grad)


def test_segments() -> None:
    assert segments(OFT) == [Segment((2, 2), (2, 3))]
    assert segments(REMOVED) == [Segment((1, 1), (1, 2)), Segment((3, 3), (4, 5))]
    assert segments(SHARED) == [Segment((1, 2), (1, 2)), Segment((4, 5), (4, 5))]
    # Between tuned blocks 2 and 4 stands nothing but a frozen copy of one of them: nothing there is trained.
    assert segments(fixed_plan(6, (0, 2, 4, 5), (2, 4), "all")) == [Segment((0, 1), (0, 1)), Segment((5, 5), (5, 5))]
    with pytest.raises(InputError, match="the plan tunes every kept block"):
        segments(full_plan(NUM_BLOCKS))


def test_the_loss_of_a_batch_does_not_depend_on_how_it_is_cut() -> None:
    loss = frozen_blocks("llama", SHARED).make_loss()
    with torch.no_grad():
        whole = float(loss(collate(rows(6), 0))[0])
        parts = sum(float(loss(collate(rows(6)[start : start + 2], 0))[0]) for start in (0, 2, 4))
    assert parts == pytest.approx(whole, rel=1e-5)


def distilled(
    trained: FrozenBlocks, settings: TrainSettings = SETTINGS, **options: Any
) -> tuple[Any, dict[str, Tensor]]:
    result = train(trained, rows(), [], settings, **options)
    return result, {name: tensor.clone() for name, tensor in trained.state().items()}


@pytest.mark.parametrize("plan", [OFT, SHARED], ids=["oft", "shared"])
def test_the_loss_falls_and_only_frozen_blocks_move(plan: Plan) -> None:
    trained, seen = frozen_blocks("llama", plan), []
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    settings = replace(SETTINGS, num_steps=30, batch_size=8, schedule="constant")
    distilled(trained, settings, on_metrics=lambda step, values: seen.append(values | trained.parts.take()))
    assert seen[-1]["loss"] < 0.7 * seen[0]["loss"]
    assert seen[-1]["hidden_loss"] < 0.7 * seen[0]["hidden_loss"]
    for values in seen:
        assert values["loss"] == pytest.approx(values["lm_loss"] + WEIGHT * values["hidden_loss"], rel=1e-5)
    for position, (source, is_tuned) in enumerate(plan.layout):
        for name, tensor in get_blocks(trained.model)[position].state_dict().items():
            moved = not torch.equal(tensor, before[f"model.layers.{position}.{name}"])
            assert moved == (source in plan.frozen and not is_tuned), (position, name)
            if source in plan.frozen:
                assert torch.equal(tensor, trained.state()[f"{source}.{name}"]), "copies follow"
    outside = [name for name in before if ".layers." not in name]
    assert outside
    assert all(torch.equal(trained.model.state_dict()[name], before[name]) for name in outside)
    full = tiny_model("llama").state_dict()
    assert all(torch.equal(tensor, full[name]) for name, tensor in trained.teacher.state_dict().items())


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize(
    ("precision", "elevation"), [("float32", Elevation()), ("bfloat16", Elevation()), ("float32", Elevation(2.0, 2))]
)
def test_resuming_gives_the_same_bits(stop: int, precision: str, elevation: Elevation) -> None:
    given: dict[str, Any] = {"precision": precision, "elevation": elevation}
    _, expected = distilled(frozen_blocks("llama", SHARED, **given), precision=precision)
    kept, steps = Kept(), iter(range(1, 100))
    options: dict[str, Any] = {"precision": precision, "checkpoint": kept, "should_stop": lambda: next(steps) == stop}
    with pytest.raises(InterruptedRun):
        distilled(frozen_blocks("llama", SHARED, **given), **options)
    again = frozen_blocks("llama", SHARED, **given)
    _, found = distilled(again, checkpoint=Kept(kept.load()), precision=precision)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_zeros_of_a_pruned_emulator_stay() -> None:
    trained = frozen_blocks("llama", OFT, keep_zeros=True)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.dim() > 1:
                parameter[::2] = 0
    before = {name: tensor.clone() for name, tensor in trained.state().items()}
    _, after = distilled(trained)
    for name, tensor in after.items():
        if tensor.dim() > 1:
            assert torch.equal(tensor == 0, before[name] == 0)
        assert not torch.equal(tensor, before[name])


def test_tensors_of_another_emulator_are_refused() -> None:
    trained = frozen_blocks("llama", OFT)
    state = {name: tensor.clone() for name, tensor in trained.state().items()}
    name = next(iter(state))
    for wrong in ({**state, "9.x": state[name]}, {key: value for key, value in state.items() if key != name}):
        with pytest.raises(InputError, match="are not those of this emulator: 1, first"):
            trained.load(wrong)
    with pytest.raises(InputError, match=f"first {name}"):
        trained.load({**state, name: torch.zeros(3)})


@pytest.mark.parametrize("family", ["llama", "opt", "gemma2"])
def test_the_margin_takes_the_place_of_the_loss(family: str) -> None:
    trained = frozen_blocks(family, OFT, elevation=Elevation(margin=0.3))
    batch = collate(rows(3), 0)
    with torch.no_grad():
        found, count = trained.make_loss()(batch)
    parts = trained.parts.take()
    full, emulator = tiny_model(family), with_layout(tiny_model(family), OFT)
    total = 0.0
    for row in rows(3):
        one = collate([row], 0)
        own, taught = (float(model(one.input_ids, labels=one.labels).loss.detach()) for model in (emulator, full))
        total += len(row.answer_ids) * abs(own - taught - 0.3)
    hidden = frozen_blocks(family, OFT)
    hidden.make_loss()(batch)
    expected = total + WEIGHT * hidden.parts.take()["hidden_loss"] * count
    assert float(found) == pytest.approx(expected, rel=1e-3)
    # Validation is in no metric of the training.
    assert parts["margin_loss"] == 0.0


def test_the_loss_rises_to_the_margin_and_stays_there() -> None:
    seen: list[dict[str, float]] = []
    trained = frozen_blocks("llama", OFT, hidden_weight=0.0, elevation=Elevation(margin=1.5))
    settings = replace(SETTINGS, num_steps=60, batch_size=8, schedule="constant")
    with torch.no_grad():
        before, count = AnswerLoss(with_layout(tiny_model("llama"), OFT))(collate(rows(), 0))
        taught, _ = AnswerLoss(tiny_model("llama"))(collate(rows(), 0))
    distilled(trained, settings, on_metrics=lambda step, values: seen.append(values | trained.parts.take()))
    margins = [(float(before) - float(taught)) / count, seen[-1]["lm_loss"] - float(taught) / count]
    assert abs(margins[1] - 1.5) < 0.3 < abs(margins[0] - 1.5)
    assert seen[-1]["margin_loss"] < 0.5 * seen[0]["margin_loss"]


def test_random_prompts_are_those_of_both_models_and_new_in_every_pass() -> None:
    trained = frozen_blocks("llama", OFT, elevation=Elevation(prompt_tokens=4, prompt_std=20.0))
    loss, batch = trained.make_loss(), collate(prepend_ids(prompt_ids(trained.model), rows(3)), 0)
    drawn = []
    for training in (True, True, False, False):
        trained.model.train(training)
        loss(batch)
        (own,), (other,) = (prompt_parameters(model).values() for model in (trained.model, trained.teacher))
        assert torch.equal(own, other)
        drawn.append(own.detach().clone())
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[2], drawn[3])
    assert 15 < float(drawn[0].std()) < 25
    # Only blocks are returned.
    assert not [name for name in trained.state() if "prompt" in name]
    assert not any(each.grad is not None for each in prompt_parameters(trained.model).values())
