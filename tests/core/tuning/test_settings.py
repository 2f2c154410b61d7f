"""Settings of a tuning: refused where they cannot be meant, and in the key where they change the result."""

import dataclasses
from dataclasses import replace

import pytest

from tasks.core.errors import InputError
from tasks.core.tuning.settings import NOT_CONTENT, TrainSettings

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
}


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
    assert {field.name for field in dataclasses.fields(TrainSettings)} == {*OTHERS, "num_epochs"}
