"""DP-SGD: each step by hand from gradients of single rows, plain training as its limit, the same bits when resumed."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tasks.core.batching import collate
from tasks.core.errors import InputError, InterruptedRun, SettingError
from tasks.core.privacy.accountant import epsilon_of
from tasks.core.privacy.gradients import ClippedSum
from tasks.core.privacy.noise import NOISE, SecretNumbers, sampled_rows
from tasks.core.tuning import train as training
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.core.tuning.private_steps import privacy_facts, require_small_delta
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import make_trained
from tests.core.tuning.test_train import PLAN, SETTINGS, SHARED, Kept, emulator, examples, tune

KEY = "0a" * 32
# A clipping that some rows reach and others do not, and no second clipping of the noisy gradient.
PRIVATE = replace(SETTINGS, dp_noise=0.5, dp_clip=1.5, clip_norm=1e9)
LORA = TuningMethod("lora", lora_rank=3, lora_dropout=0.0)


@pytest.fixture(autouse=True)
def known_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "new_key", lambda: KEY)


def without_dropout(family: str, plan) -> torch.nn.Module:
    """An emulator without dropout of any kind."""
    model = emulator(plan, family=family)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def gradients_by_row(family: str, plan, method: TuningMethod, rows: list[int]) -> list[list[Tensor]]:
    """The gradient of the stock loss of each row alone."""
    trained = make_trained(without_dropout(family, plan), plan, method, SETTINGS.seed)
    parameters, found = trained.parameters(), []
    for row in rows:
        batch = collate([examples()[row]], 0)
        loss = trained.model(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        found.append(list(torch.autograd.grad(loss, parameters)))
    return found


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "gemma3"])
@pytest.mark.parametrize(("plan", "method"), [(PLAN, WHOLE_BLOCKS), (SHARED, WHOLE_BLOCKS), (PLAN, LORA)])
def test_the_gradient_of_a_step_is_clipped_summed_and_noisy_as_by_hand(family, plan, method):
    rows = sampled_rows(10, 0.4, KEY, 0)
    assert 1 < len(rows) < 10
    expected, norms = None, []
    for gradients in gradients_by_row(family, plan, method, rows):
        norms.append(float(torch.cat([each.flatten() for each in gradients]).norm()))
        scale = min(1.0, PRIVATE.dp_clip / norms[-1])
        scaled = [scale * each for each in gradients]
        expected = [sum(pair) for pair in zip(expected, scaled, strict=True)] if expected else scaled
    assert max(norms) > PRIVATE.dp_clip
    trained = make_trained(without_dropout(family, plan), plan, method, SETTINGS.seed)
    numbers = SecretNumbers(KEY, 0, NOISE)
    train(trained, examples(), [], replace(PRIVATE, num_steps=1))
    for parameter, total in zip(trained.parameters(), expected, strict=True):
        by_hand = (total + 0.5 * 1.5 * numbers.normal(parameter.shape)) / 4.0
        torch.testing.assert_close(parameter.grad, by_hand, atol=1e-5, rtol=1e-3)


def test_without_noise_and_with_a_huge_norm_it_is_plain_training():
    """All ten rows in each step; their answers have the same length, so that both losses are the same mean."""
    plain = replace(SETTINGS, batch_size=10, num_steps=4)
    _, expected, losses = tune(emulator(family="llama"), plain)
    _, found, private = tune(emulator(family="llama"), replace(plain, dp_noise=0.0, dp_clip=1e9))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=1e-3, msg=name)
    assert [each["loss"] for each in private.values()] == pytest.approx([each["loss"] for each in losses.values()])


def test_a_killed_tuning_goes_on_with_the_same_bits(monkeypatch):
    _, whole, seen = tune(emulator(dropout=0.3), PRIVATE)
    kept, polls = Kept(), iter([False, False, True])
    with pytest.raises(InterruptedRun):
        tune(emulator(dropout=0.3), PRIVATE, checkpoint=kept, should_stop=lambda: next(polls))
    monkeypatch.setattr(training, "new_key", lambda: "0b" * 32)
    result, resumed, rest = tune(emulator(dropout=0.3), PRIVATE, checkpoint=kept)
    assert set(rest) == {4, 5, 6}
    assert all(rest[step]["loss"] == seen[step]["loss"] for step in rest)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert KEY not in str(result.summary())


def test_the_seed_does_not_tell_the_noise(monkeypatch):
    _, first, _ = tune(emulator(), replace(PRIVATE, num_steps=1))
    monkeypatch.setattr(training, "new_key", lambda: "0b" * 32)
    _, second, _ = tune(emulator(), replace(PRIVATE, num_steps=1))
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_steps_without_a_row_add_noise_alone():
    settings = replace(PRIVATE, batch_size=1, num_steps=12)
    sizes = [len(sampled_rows(10, 0.1, KEY, step)) for step in range(12)]
    assert 0 in sizes
    result, state, seen = tune(emulator(), settings)
    assert result.num_steps == 12
    assert all(values["loss"] >= 0 for values in seen.values())
    assert all(values["gradient_norm"] > 0 for values in seen.values())
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_no_row_adds_more_than_the_norm():
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    total = ClippedSum(parameters, 2.0)
    for scale in (0.01, 1.0, 1e6):
        before = [each.clone() for each in total._sums]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, scale)
        norm = scale * 7**0.5
        total.add()
        added = [after - each for after, each in zip(total._sums, before, strict=True)]
        assert float(torch.cat([each.flatten() for each in added]).norm()) == pytest.approx(min(norm, 2.0), rel=1e-5)


def test_several_processes_are_refused():
    with pytest.raises(InputError, match=r"tune.dp_noise with place.parallel = .data.: gradients of single rows"):
        tune(emulator(), PRIVATE, parallel="data")


def test_epsilon_is_that_of_the_sampling_and_the_steps():
    facts = privacy_facts(replace(PRIVATE, batch_size=4, dp_delta=1e-4), 100, 7)
    assert facts == {
        "dp_noise": 0.5,
        "dp_clip": 1.5,
        "dp_delta": 1e-4,
        "dp_epsilon": epsilon_of(0.5, 0.04, 7, 1e-4),
    }
    assert privacy_facts(replace(PRIVATE, dp_noise=0.0), 100, 7) == {"dp_noise": 0.0, "dp_clip": 1.5}
    assert privacy_facts(SETTINGS, 100, 7) == {}


def test_a_delta_that_protects_nothing_is_refused():
    with pytest.raises(SettingError, match=r"dp_delta = 0\.01 with 100 training rows protects nothing"):
        require_small_delta(replace(PRIVATE, dp_delta=0.01), 100)
    require_small_delta(replace(PRIVATE, dp_delta=0.001), 100)
