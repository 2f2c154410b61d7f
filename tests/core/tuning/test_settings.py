"""Settings of a tuning: refused where they cannot be meant, and in the key where they change the result."""

import dataclasses
from dataclasses import replace

import pytest

from tasks.core.errors import InputError
from tasks.core.tuning.settings import NOT_CONTENT, Distillation, StepOptions, TrainSettings

SETTINGS = TrainSettings(learning_rate=1e-2, num_steps=6, batch_size=4, eval_steps=2)
OTHERS = {
    "learning_rate": 2e-2,
    "num_steps": 7,
    "batch_size": 5,
    "max_tokens": 100,
    "warmup_steps": 1,
    "schedule": "linear",
    "weight_decay": 0.1,
    "betas": (0.8, 0.9),
    "clip_norm": 2.0,
    "eval_steps": 3,
    "checkpoint_steps": 7,
    "seed": 4,
    "patience": 3,
    "gradient_checkpointing": True,
    "may_diverge": True,
    "max_change": 0.1,
}
PRIVATE = replace(SETTINGS, eval_steps=None, dp_noise=0.5)
OTHERS_OF_PRIVATE = {"dp_noise": 0.6, "dp_clip": 2.0, "dp_delta": 1e-6}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 2}, "either num_steps or num_epochs"),
        ({"num_steps": None}, "either num_steps or num_epochs"),
        ({"schedule": "step"}, "choose from cosine, linear, constant"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0; it must be larger than 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"clip_norm": -1.0}, "clip_norm = -1.0"),
        ({"num_steps": 0}, "num_steps = 0"),
        ({"num_steps": None, "num_epochs": -1}, "num_epochs = -1"),
        ({"eval_steps": 0}, "eval_steps = 0"),
        ({"patience": 0}, "patience = 0"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"max_tokens": 0}, "max_tokens = 0; it must be larger than 0"),
        ({"warmup_steps": -1}, "warmup_steps = -1; it must be at least 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1"),
        ({"checkpoint_steps": 0}, "checkpoint_steps = 0"),
        ({"betas": (0.9, 1.0)}, r"betas = \(0.9, 1.0\); it must be at least 0 and less than 1"),
        ({"dp_noise": -0.1, "eval_steps": None}, "dp_noise = -0.1; it must be at least 0"),
        ({"dp_noise": float("nan"), "eval_steps": None}, "dp_noise = nan"),
        ({"dp_noise": 1.0}, "dp_noise cannot be combined with eval_steps or learning_rates: .* give one learning_rate"),
        ({"dp_clip": 0.0}, "dp_clip = 0.0; it must be larger than 0"),
        ({"dp_delta": 1.0}, "dp_delta = 1.0; it must be larger than 0 and less than 1"),
        ({"max_change": 0.0}, "max_change = 0.0; it must be larger than 0"),
        ({"patience": 2, "eval_steps": None}, "patience needs validation losses: give eval_steps as well"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **change)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainSettings) if field.name in OTHERS])
def test_the_key_has_all_that_changes_the_result_and_nothing_else(name):
    changed = replace(SETTINGS, **{name: OTHERS[name]}).cache_view()
    assert (changed == SETTINGS.cache_view()) == (name in NOT_CONTENT)


def test_every_setting_is_tried_above():
    assert {field.name for field in dataclasses.fields(TrainSettings)} == {*OTHERS, *OTHERS_OF_PRIVATE, "num_epochs"}


@pytest.mark.parametrize("name", OTHERS_OF_PRIVATE)
def test_the_key_has_clipping_and_delta_only_where_there_is_noise(name):
    changed = {name: OTHERS_OF_PRIVATE[name]}
    assert replace(PRIVATE, **changed).cache_view() != PRIVATE.cache_view()
    if name != "dp_noise":
        assert replace(SETTINGS, **changed).cache_view() == SETTINGS.cache_view()


def test_a_distillation_trains_with_its_own_settings_and_the_defaults_of_the_loop():
    how = Distillation(num_steps=3000, max_tokens=64, seed=5)
    shared = {field.name: getattr(how, field.name) for field in dataclasses.fields(StepOptions)}
    assert how.training == TrainSettings(**shared, seed=5)
    assert (how.training.learning_rate, how.training.warmup_steps) == (1e-4, 2000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": None}, "num_steps is missing"),
        ({"num_steps": 2000}, "warmup_steps = 2000 but num_steps = 2000: the learning rate would never be reached"),
        ({"hidden_weight": -1.0}, "hidden_weight = -1.0; it must be at least 0"),
        ({"block": 1}, "block = 1; it must be at least 2"),
    ],
)
def test_a_distillation_is_checked(change, message):
    with pytest.raises(InputError, match=message):
        Distillation(**{"num_steps": 3000, **change})
