"""Variants as they are written down: read back, refused, and as parts of a key."""

import json
from dataclasses import replace
from typing import get_args

import pytest

from tasks.core.errors import InputError, SettingError
from tasks.core.tuning.method import METHODS, TrainedBlocks, TuningMethod


@pytest.mark.parametrize("method", [method for method in METHODS if method != "prompt"])
@pytest.mark.parametrize("trained", get_args(TrainedBlocks))
def test_what_is_written_is_read_back(method, trained):
    variant = TuningMethod(method, trained, lm_head=True, freeze_bottom=trained != "frozen")
    assert TuningMethod.from_json(variant.to_json()) == variant
    changed = replace(variant, lora_rank=9, adapter_size=7)
    again = TuningMethod.from_json(changed.to_json())
    assert again.cache_view() == changed.cache_view()
    assert (again.lora_rank == 9, again.adapter_size == 7) == (method == "lora", method == "adapter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object with method, trained"),
        ('{"method": "lora"}', "expected an object with method, trained"),
        ('{"method": "lora", "trained": "tuned", "code": "x"}', "expected an object with method, trained"),
        (
            '{"method": "lara", "trained": "tuned"}',
            "variant.method = 'lara'; choose from blocks, lora, adapter, bitfit",
        ),
        ('{"method": "lora", "trained": "none"}', "variant.trained = 'none'; choose from tuned, frozen, all"),
        ('{"method": "lora", "trained": "tuned", "lora_rank": true}', "lora_rank must be a int, not True"),
        ('{"method": "lora", "trained": "tuned", "lora_rank": 0}', "lora_rank = 0; it must be larger than 0"),
        ('{"method": "lora", "trained": "tuned", "lm_head": 1}', "lm_head must be a bool, not 1"),
        ('{"method": ["lora"], "trained": "tuned"}', "method must be a str"),
        ('{"method": "lora", "trained": "tuned", "lora_dropout": 1.0}', "lora_dropout = 1.0; .* less than 1"),
        (
            '{"method": "blocks", "trained": "frozen", "freeze_bottom": true}',
            'variant.freeze_bottom has no effect with variant.trained = "frozen"',
        ),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        TuningMethod.from_json(text)


def test_what_only_another_method_looks_at_is_in_no_key():
    keys = {method: set(TuningMethod(method).cache_view()) for method in METHODS}
    common = {"method", "trained", "lm_head", "freeze_bottom"}
    assert keys["blocks"] == keys["bitfit"] == common
    assert keys["lora"] == common | {"lora_rank", "lora_alpha", "lora_dropout"}
    assert keys["adapter"] == common | {"adapter_size"}
    assert keys["prompt"] == common | {"prompt_tokens"}
    assert json.loads(TuningMethod().to_json()).keys() == common


def test_what_is_handed_on_is_whole_blocks_or_adapters():
    assert TuningMethod("lora", "all", lm_head=True, freeze_bottom=True).admitted == TuningMethod(lm_head=True)
    assert TuningMethod("bitfit").admitted.is_default
    adapter = TuningMethod("adapter", "all", freeze_bottom=True, adapter_size=5)
    assert adapter.admitted == adapter
    prompt = TuningMethod("prompt", prompt_tokens=3)
    assert prompt.admitted == TuningMethod.from_json(prompt.to_json()) == prompt


@pytest.mark.parametrize("given", [{"trained": "all"}, {"lm_head": True}, {"freeze_bottom": True}])
def test_a_prompt_is_all_that_is_trained(given):
    with pytest.raises(SettingError, match='method = "prompt" trains no block and no head'):
        TuningMethod("prompt", **given)
