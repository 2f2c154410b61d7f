"""Lenses: exact behind the last block in every family, trained to the same bits, and measured against plain loops."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedModel

from tasks.core.batching import Example, collate
from tasks.core.errors import DivergedError, InputError, InterruptedRun
from tasks.core.study.divergences import DISTANCES, Distances
from tasks.core.study.lens import (
    Lens,
    every_token,
    make_lens,
    measure_curves,
    predicting,
    read_out,
    require_fit,
    states_at,
)
from tasks.core.study.lens_training import LensLoss, TrainedLens, load_state
from tasks.core.study.predictions import functional_distances, spread_positions, trace
from tasks.core.study.states_of_variants import rearranged
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tests.core.tiny_models import COMMON, FAMILIES, NUM_BLOCKS, VOCABULARY, WIDTH, tiny_model, token_ids
from tests.core.tuning.test_train import Kept

SETTINGS = TrainSettings(learning_rate=1e-2, num_steps=6, batch_size=4, max_tokens=64, checkpoint_steps=2)


def rows(count: int = 8, seed: int = 1) -> list[Example]:
    """Of different lengths; a third of each is given and not asked for."""
    drawn = [token_ids(1, 4 + 3 * (index % 3), seed + index)[0].tolist() for index in range(count)]
    return [Example(tuple(ids[: len(ids) // 3]), tuple(ids[len(ids) // 3 :]), at) for at, ids in enumerate(drawn)]


def random_lens(model: PreTrainedModel, seed: int = 3) -> Lens:
    lens, generator = make_lens(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lens.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return lens


def output(model: PreTrainedModel, example: Example) -> torch.Tensor:
    """Log-probabilities [T, vocabulary] of a row, as anybody gets them."""
    with torch.no_grad():
        return model(torch.tensor([[*example.prompt_ids, *example.answer_ids]])).logits[0].log_softmax(-1)


def narrow_embeddings() -> PreTrainedModel:
    """As OPT-350M: norms behind the sums, none at the end, and a projection to narrower embeddings."""
    torch.manual_seed(0)
    config = OPTConfig(**COMMON, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", [*FAMILIES, "opt-350m"])
def test_behind_the_last_block_the_lens_is_the_model(family: str) -> None:
    """Bit for bit, whatever was trained; and the untrained lens hands every state to the model's own norm and head."""
    model = narrow_embeddings() if family == "opt-350m" else tiny_model(family)
    batch = collate([Example((), tuple(token_ids(1)[0].tolist()))], 0)
    with torch.no_grad():
        states = states_at(model, batch, torch.ones_like(batch.labels, dtype=torch.bool))
        trained, logit, read = random_lens(model), make_lens(model), read_out(model)
        assert torch.equal(read(trained(NUM_BLOCKS - 1, states[-1])), model(batch.input_ids).logits[0])
        assert all(torch.equal(logit(block, state), state) for block, state in enumerate(states))
        assert not torch.equal(trained(2, states[2]), states[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_divergence_of_every_family(family: str) -> None:
    model, before = (
        tiny_model(family),
        {name: tensor.clone() for name, tensor in tiny_model(family).state_dict().items()},
    )
    trained = TrainedLens(model)
    first = measure_curves(model, trained.lens, rows(), max_tokens=64)
    result = train(trained, every_token(rows()), [], TrainSettings(learning_rate=3e-3, num_steps=30, batch_size=4))
    after = measure_curves(model, trained.lens, rows(), max_tokens=64)
    assert (after.kl[:-1] < first.kl[:-1]).all()
    assert (float(after.kl[-1]), float(after.agreement[-1])) == (0.0, 1.0)
    assert result.num_parameters == (NUM_BLOCKS - 1) * (WIDTH * WIDTH + WIDTH)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items()), (
        "the model is only read"
    )


@pytest.mark.parametrize("num_numbers", [1 << 24, 3 * VOCABULARY])
def test_the_loss_and_its_gradient_are_those_of_the_plain_formula(
    num_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.core.study.lens_training.STREAMED_NUMBERS", num_numbers)
    model, lens = tiny_model("llama").requires_grad_(False), random_lens(tiny_model("llama"))
    batch = collate(rows(3), 0)
    summed, count = LensLoss(model, lens)(batch)
    summed.backward()
    found = [parameter.grad.clone() for parameter in lens.parameters() if parameter.grad is not None]
    lens.zero_grad()
    hidden = model(batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    chosen, total = predicting(batch), torch.zeros(())
    target = hidden.logits[chosen].log_softmax(-1)
    for block in range(NUM_BLOCKS - 1):
        state = hidden.hidden_states[block + 1][chosen]
        translated = state + state @ lens.weight[block].T + lens.bias[block]
        theirs = model.lm_head(model.model.norm(translated)).log_softmax(-1)
        total = total + torch.nn.functional.kl_div(theirs, target, log_target=True, reduction="sum")
    (total / (NUM_BLOCKS - 1)).backward()
    torch.testing.assert_close(summed, total / (NUM_BLOCKS - 1), rtol=1e-5, atol=1e-5)
    assert count == int(chosen.sum()) == sum(len(row.answer_ids) for row in rows(3))
    for ours, parameter in zip(found, lens.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-5)


def trained_lens(**options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    model = tiny_model("opt")
    model.config.dropout = 0.3
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.3
    trained = TrainedLens(model)
    result = train(trained, every_token(rows()), every_token(rows(4, seed=9)), SETTINGS, **options)
    return result, {name: tensor.clone() for name, tensor in trained.state().items()}


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_training_goes_on_to_the_same_bits(stop: int) -> None:
    """Dropout of the model plays no part: it is the target, not the pupil."""
    _, expected = trained_lens()
    kept, steps = Kept(), iter(range(1, 100))
    with pytest.raises(InterruptedRun, match=f"stopped after step {stop} of 6"):
        trained_lens(checkpoint=kept, should_stop=lambda: next(steps) == stop)
    torch.manual_seed(12345)
    _, found = trained_lens(checkpoint=Kept(kept.load()))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert any(tensor.any() for tensor in expected.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_curves_are_those_of_a_plain_loop(family: str) -> None:
    model, kl, same, count = tiny_model(family), torch.zeros(NUM_BLOCKS), torch.zeros(NUM_BLOCKS), 0
    lens, read = random_lens(model), read_out(model)
    for row in rows():
        final, batch = output(model, row), collate([row], 0)
        places = torch.arange(len(row.prompt_ids) - 1, row.num_tokens - 1)
        count += len(places)
        with torch.no_grad():
            states = states_at(model, batch, torch.ones_like(batch.labels, dtype=torch.bool))
            for block, state in enumerate(states):
                theirs = read(lens(block, state[places])).log_softmax(-1)
                kl[block] += torch.nn.functional.kl_div(theirs, final[places], log_target=True, reduction="sum")
                same[block] += (theirs.argmax(-1) == final[places].argmax(-1)).sum()
    found = measure_curves(model, lens, rows(), max_tokens=30)
    assert found.num_positions == count
    torch.testing.assert_close(found.kl.float(), kl / count, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.agreement.float(), same / count, rtol=0, atol=1.01 / count)


@pytest.mark.parametrize("family", FAMILIES)
def test_distances_at_chosen_positions_are_those_of_a_plain_loop(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.core.study.lens.HELD_NUMBERS", 2 * NUM_BLOCKS * VOCABULARY)
    model, expected = tiny_model(family), Distances(NUM_BLOCKS)
    lens, read = random_lens(model), read_out(model)
    wanted = spread_positions([len(row.answer_ids) for row in rows()], 9)
    for row, numbers in zip(rows(), wanted, strict=True):
        batch = collate([row], 0)
        places = torch.tensor(numbers, dtype=torch.long) + len(row.prompt_ids) - 1
        with torch.no_grad():
            states = states_at(model, batch, torch.ones_like(batch.labels, dtype=torch.bool))
            ours = [read(lens(block, state)).log_softmax(-1)[places] for block, state in enumerate(states)]
        expected.update(torch.stack(ours), ours[-1])
    found = functional_distances(model, lens, rows(), 9, max_tokens=30)
    assert found.num_positions == expected.num_positions == 9
    for name in DISTANCES:
        torch.testing.assert_close(found.means()[name], expected.means()[name], rtol=1e-3, atol=1e-4, msg=name)


def test_positions_are_spread_evenly() -> None:
    assert spread_positions([4, 1, 5], 5) == [[0, 2], [0], [1, 3]]
    assert spread_positions([2, 0, 1], 100) == [[0, 1], [], [0]]
    with pytest.raises(InputError, match="1 position to compare"):
        spread_positions([1, 0], 5)


@pytest.mark.parametrize("kept", [(0, 2, 5), (0, 1, 3)])
def test_the_trajectory_of_a_model_that_lost_blocks(kept: tuple[int, ...]) -> None:
    """Its last line is what it says; every block is read by its own translator; KL is from the full model."""
    model, row = tiny_model("qwen3"), rows()[2]
    lens, full = random_lens(model), output(model, row)
    whole = trace(model, lens, row, num_positions=5)
    dropped = rearranged(model, [(block, False) for block in kept])
    found = trace(dropped, lens, row, num_positions=5, sources=kept, reference=whole.final)
    own = output(dropped, row)[-5:]
    assert torch.equal(whole.top[-1], full[-5:].argmax(-1))
    assert (found.sources, found.top.shape) == (kept, (3, 5))
    assert torch.equal(found.top[-1], own.argmax(-1))
    torch.testing.assert_close(found.probability[-1], own.exp().max(-1).values)
    torch.testing.assert_close(found.entropy[-1], torch.distributions.Categorical(logits=own).entropy())
    expected = torch.nn.functional.kl_div(own, full[-5:], log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found.kl[-1], expected, rtol=1e-4, atol=1e-5)
    assert not whole.kl[-1].any()
    # Behind block 0 nothing has been dropped yet.
    torch.testing.assert_close(found.kl[0], whole.kl[0])


def test_fewer_positions_than_were_asked_for_are_all_there_are() -> None:
    row = rows()[0]
    assert trace(tiny_model("opt"), make_lens(tiny_model("opt")), row, num_positions=50).top.shape[1] == row.num_tokens


def break_weights(model: PreTrainedModel, block: int | None) -> PreTrainedModel:
    place = model.model.decoder.final_layer_norm if block is None else model.model.decoder.layers[block].fc2
    with torch.no_grad():
        place.weight.fill_(math.nan)
    return model


def test_weights_that_are_not_finite_are_named_by_block() -> None:
    model = break_weights(tiny_model("opt"), 3)
    with pytest.raises(InputError, match="the output of block 3 holds NaN"):
        train(TrainedLens(model), every_token(rows()), [], SETTINGS)
    with pytest.raises(InputError, match="the output of block 3 holds NaN"):
        functional_distances(model, make_lens(model), rows(), 9, max_tokens=30)
    kept = (0, 3, 5)
    with pytest.raises(InputError, match="the output of block 3 holds NaN"):
        trace(
            rearranged(model, [(block, False) for block in kept]),
            make_lens(model),
            rows()[0],
            num_positions=3,
            sources=kept,
        )
    headless = break_weights(tiny_model("opt"), None)
    with pytest.raises(InputError, match=r"block 0 under the lens holds NaN.*final norm and head"):
        functional_distances(headless, make_lens(headless), rows(), 9, max_tokens=30)
    with pytest.raises(InputError, match=r"predicted by the model holds NaN.*final norm and head"):
        train(TrainedLens(headless), every_token(rows()), [], SETTINGS)


def test_a_wild_learning_rate_ends_in_a_clear_error() -> None:
    wild = replace(SETTINGS, learning_rate=1e30, schedule="constant")
    with pytest.raises(DivergedError, match=r"not finite at step 2 of 6, learning rate 1e\+30"):
        train(TrainedLens(tiny_model("opt")), every_token(rows()), [], wild)


def test_too_few_rows_and_a_lens_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"at least two rows.*these are 1"):
        every_token([Example((3,), (4, 5)), Example((), (4,))])
    assert every_token([Example((3, 7), (4,), 5), Example((), (4, 9), 6)]) == [
        Example((3,), (7, 4), 5),
        Example((4,), (9,), 6),
    ]
    with pytest.raises(InputError, match="one block"):
        Lens(1, 8)
    with pytest.raises(InputError, match=r"a model with 4 blocks of width 32, this one has 6 of 32"):
        require_fit(Lens(4, WIDTH), tiny_model("opt"))
    with pytest.raises(InputError, match="no lens of this model"):
        load_state(make_lens(tiny_model("opt")), Lens(4, WIDTH).state_dict())
