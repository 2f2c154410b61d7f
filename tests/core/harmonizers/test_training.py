"""Training harmonizers and scores: only harmonizers move, it resumes to the same bits, and it finds what matters."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tasks.core.batching import Example
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.errors import DivergedError, InputError, InterruptedRun
from tasks.core.harmonizers.settings import Harmonizing
from tasks.core.harmonizers.training import TrainedHarmonizers
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.train import train
from tests.core.tiny_models import NUM_BLOCKS, VOCABULARY, WIDTH, tiny_model
from tests.core.tuning.test_train import Kept

HOW = Harmonizing(num_steps=6, warmup_steps=1, batch_size=4, rank=3, score_steps=2, score_rows=3, learning_rate=1e-2)


def windows(count: int, seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(3, VOCABULARY, (count, 10), generator=generator).tolist()
    return [Example((row[0],), tuple(row[1:]), at) for at, row in enumerate(rows)]


def trained(how: Harmonizing = HOW, family: str = "llama", protected: tuple[int, ...] = (), **options: Any) -> Any:
    given = {"rows": windows(5, seed=9), **options}
    return TrainedHarmonizers(tiny_model(family), how, protected, **given)


def fit(made: TrainedHarmonizers, how: Harmonizing = HOW, **options: Any) -> tuple[Any, dict[int, dict[str, float]]]:
    seen: dict[int, dict[str, float]] = {}
    given = {"on_metrics": seen.__setitem__, "after_step": made.after_step, **options}
    return train(made, windows(16), [], how.training, **given), seen


@pytest.mark.parametrize("family", ["llama", "gptj", "opt"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_harmonizers_move(family: str, precision: str) -> None:
    made = trained(family=family, precision=precision)
    before = {name: tensor.clone() for name, tensor in made.model.named_parameters()}
    result, seen = fit(made, precision=precision)
    for name, tensor in made.model.named_parameters():
        if "harmonizer" not in name:
            same = before[name].to(tensor.dtype)
            assert torch.equal(tensor, same), name
    ups = [result.state[f"{block}.up"] for block in range(NUM_BLOCKS)]
    assert all(up.dtype == torch.float32 and up.abs().sum() > 0 for up in ups), "each was replaced at some step"
    assert result.num_parameters == NUM_BLOCKS * 2 * 3 * WIDTH
    assert [step for step, values in seen.items() if "validation_loss" in values] == [2, 4, 6]
    assert result.state["scores"].isfinite().all()
    assert result.state["scores"].abs().max() > 0


def test_in_a_step_only_the_replaced_blocks_have_gradients() -> None:
    made = trained()
    kept = [bool(each) for each in made.state()["kept"]]
    assert sum(kept) == NUM_BLOCKS // 2
    fit(made, replace(HOW, num_steps=2), should_stop=lambda: False, after_step=lambda step: {})
    for block in range(NUM_BLOCKS):
        moved = made.state()[f"{block}.up"].abs().sum() > 0
        assert bool(moved) != kept[block]


def test_tuned_blocks_are_always_kept() -> None:
    made = trained(protected=(0, 5))
    choices = []
    for step in range(40):
        made.choose(step)
        choices.append(made.state()["kept"])
    kept = torch.stack(choices)
    assert kept[:, [0, 5]].all()
    assert (kept[:, 1:5].sum(1) == 2).all()
    assert not kept[:, 1:5].all(0).any()
    assert made.state().keys() == {f"{block}.{part}" for block in range(1, 5) for part in ("down", "up")} | {
        "scores",
        "kept",
    }
    assert not any(hasattr(get_blocks(made.model)[block], "harmonizer") for block in (0, 5))
    with pytest.raises(InputError, match="1 of 6 blocks may be replaced, since the others are tuned: tune fewer"):
        trained(protected=(0, 1, 2, 3, 5))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_gives_the_same_bits(stop: int) -> None:
    expected, whole = fit(trained(), checkpoint=Kept())
    kept, steps = Kept(), iter(range(1, 100))
    with pytest.raises(InterruptedRun, match=f"stopped after step {stop} of 6"):
        fit(trained(), checkpoint=kept, should_stop=lambda: next(steps) == stop)
    torch.manual_seed(12345)
    result, seen = fit(trained(), checkpoint=Kept(kept.load()))
    assert min(seen) == stop + 1
    assert all(torch.equal(result.state[name], tensor) for name, tensor in expected.state.items())
    for step, values in seen.items():
        assert values["loss"] == whole[step]["loss"]
        assert values.get("validation_loss") == whole[step].get("validation_loss")


def test_the_seed_decides() -> None:
    first, again, other = (fit(trained(how), how)[0].state for how in (HOW, HOW, replace(HOW, seed=1)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["scores"], other["scores"])


def test_the_loss_falls() -> None:
    """On rows of four tokens only, which a random model does not expect."""
    how = replace(HOW, num_steps=120, warmup_steps=4, rank=8, batch_size=8)
    made, seen = trained(how, rows=counting(5)), dict[int, dict[str, float]]()
    train(made, counting(16), [], how.training, after_step=made.after_step, on_metrics=seen.__setitem__)
    losses = [values["loss"] for values in seen.values()]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    compared = [values["validation_loss"] for values in seen.values() if "validation_loss" in values]
    assert compared[-1] < 0.5 * compared[0]


def test_the_block_that_matters_most_gets_the_highest_score() -> None:
    model = tiny_model("llama")
    learn_to_count(model)
    alone = [loss_without(model, block) for block in range(NUM_BLOCKS)]
    assert sorted(alone)[-1] > 10 * sorted(alone)[-2]
    how = replace(HOW, num_steps=60, learning_rate=1e-9, score_steps=1, score_rows=8, group_size=6)
    made = TrainedHarmonizers(model, how, rows=counting(8, seed=9))
    train(made, counting(16), [], how.training, after_step=made.after_step)
    assert int(made.scores.argmax()) == alone.index(max(alone))


def counting(count: int, seed: int = 0) -> list[Example]:
    """Rows that count to four again and again, from random beginnings."""
    starts = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [Example((3 + start,), tuple(3 + (start + at) % 4 for at in range(1, 10)), start) for start in starts]


def learn_to_count(model: Any) -> None:
    """Train all weights on such rows."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor([[*row.prompt_ids, *row.answer_ids] for row in counting(8)])
    for _ in range(30):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def loss_without(model: Any, removed: int) -> float:
    """Loss of the emulator that lacks one block, in nats a token."""
    kept = [block for block in range(NUM_BLOCKS) if block != removed]
    ids = torch.tensor([[*row.prompt_ids, *row.answer_ids] for row in counting(8)])
    return float(with_layout(model, fixed_plan(NUM_BLOCKS, kept, kept[:1]))(ids, labels=ids).loss)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    made = trained()
    made.make_loss()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"not finite after step 2\. Lower harmonizers\.learning_rate"):
        made.after_step(2)
