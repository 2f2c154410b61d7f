"""Limits of changes: by hand on whole blocks and biases, and on the merged blocks of LoRA."""

import pytest
import torch

from tasks.core.blocks.surgery import tuned_state
from tasks.core.errors import SettingError
from tasks.core.tuning.limiting import ChangeLimit
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.core.tuning.returned import distances, validate_returned
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import make_trained
from tests.core.tiny_models import tiny_model
from tests.core.tuning.test_train import PLAN, SETTINGS, emulator, examples

METHODS = [
    WHOLE_BLOCKS,
    TuningMethod("lora", lora_rank=3),
    TuningMethod("bitfit"),
    TuningMethod(trained="all"),
    TuningMethod(freeze_bottom=True),
]


def trained_state(method: TuningMethod, largest: float) -> tuple[dict, dict, ChangeLimit]:
    """The initial tuned blocks, the state after a tuning, and the limit."""
    model = emulator()
    before = {name: tensor.clone() for name, tensor in tuned_state(model, PLAN).items()}
    limit = ChangeLimit(tuned_state(model, PLAN), method, largest)
    return before, train(make_trained(model, PLAN, method), examples(), [], SETTINGS).state, limit


@pytest.mark.parametrize("method", METHODS, ids=lambda each: f"{each.method}-{each.trained}")
def test_what_the_owner_of_the_model_measures_is_within_the_limit(method):
    _, state, limit = trained_state(method, 0.01)
    returned = {name: tensor for name, tensor in state.items() if int(name.partition(".")[0]) in PLAN.tuned}
    full = tiny_model("opt")
    before = distances(validate_returned(returned, full, PLAN, method), full, PLAN)
    assert max(before.values()) > 0.015
    assert limit.changes(state) == pytest.approx({block: moved for block, moved in before.items() if moved}, rel=1e-4)
    limited = limit.limited(state)
    after = distances(validate_returned({name: limited[name] for name in returned}, full, PLAN, method), full, PLAN)
    assert after == pytest.approx({block: min(moved, 0.01) for block, moved in before.items()}, rel=1e-3)
    frozen = state.keys() - returned.keys()
    assert all(torch.equal(limited[name], state[name]) for name in frozen)


def test_the_direction_of_a_change_stays():
    before, state, limit = trained_state(WHOLE_BLOCKS, 0.01)
    limited = limit.limited(state)
    for block in PLAN.tuned:
        names = [name for name in state if name.startswith(f"{block}.")]
        change, kept = (
            torch.cat([(each[name] - before[name]).flatten() for name in names]) for each in (state, limited)
        )
        assert float(torch.nn.functional.cosine_similarity(change, kept, dim=0)) == pytest.approx(1, abs=1e-4)


def test_small_changes_stay_bit_for_bit():
    _, state, limit = trained_state(WHOLE_BLOCKS, 1e6)
    limited = limit.limited(state)
    assert all(torch.equal(limited[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    "method",
    [TuningMethod("adapter"), TuningMethod("prompt"), TuningMethod(lm_head=True)],
    ids=["adapter", "prompt", "head"],
)
def test_what_changes_no_block_cannot_be_limited(method):
    with pytest.raises(SettingError, match=r"max_change with .* it limits changes of blocks"):
        ChangeLimit(tuned_state(emulator(), PLAN), method, 0.1)
