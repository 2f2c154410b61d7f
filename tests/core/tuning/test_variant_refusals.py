"""Variants that a family or a plan cannot have, and returned tensors that do not fit."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.errors import InputError
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.lora import linear_modules
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.parts import require_trainable
from tasks.core.tuning.returned import validate_returned
from tasks.core.tuning.trainable import make_trained
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, WIDTH, tiny_model
from tests.core.tuning.test_variants import LORA, PLAN, tuned

UNBIASED = ["llama", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "olmo2"]


@pytest.mark.parametrize("family", UNBIASED)
def test_biases_where_there_are_none(family: str) -> None:
    with pytest.raises(InputError, match=r'^method = "bitfit", but the blocks of .* choose from blocks, lora, adapter'):
        require_trainable(FAMILIES[family](), TuningMethod("bitfit"))
    require_trainable(FAMILIES[family](), LORA, recomputing=True)


def test_a_block_without_linear_modules() -> None:
    full = tiny_model("opt")
    for block in get_blocks(full):
        for name in linear_modules(block):
            block.set_submodule(name, nn.Identity())
    with pytest.raises(InputError, match=r"no linear modules .* choose from blocks, adapter, bitfit"):
        make_trained(with_layout(full, PLAN), PLAN, LORA)


def test_nothing_left_to_train() -> None:
    every = fixed_plan(NUM_BLOCKS, (0, 1, 5), (0, 1, 5))
    for trained in ("frozen", "all"):
        with pytest.raises(InputError, match="every kept block is tuned"):
            TuningMethod(trained=trained).require_something(every)
    low = fixed_plan(NUM_BLOCKS, (0, 1, 5), (0, 1))
    with pytest.raises(InputError, match=r"freeze_bottom leaves nothing to train: all tuned blocks \[0, 1\] .* of 6"):
        TuningMethod(freeze_bottom=True).require_something(low)
    TuningMethod(freeze_bottom=True, lm_head=True).require_something(low)
    assert TuningMethod(freeze_bottom=True).returned_sources(fixed_plan(NUM_BLOCKS, (2, 3), (2, 3))) == [3]


@pytest.mark.parametrize(
    "variant", [LORA, TuningMethod("adapter", adapter_size=5), replace(LORA, lm_head=True)], ids=str
)
def test_what_does_not_fit_is_refused(variant: TuningMethod) -> None:
    full = tiny_model("gpt2")
    state = tuned("gpt2", variant, num_steps=1)[1].state
    name = sorted(state)[-1]
    with pytest.raises(InputError, match="lack 1 tensors of the plan, first"):
        validate_returned({key: value for key, value in state.items() if key != name}, full, PLAN, variant)
    with pytest.raises(InputError, match=r"1 tensors outside the plan, first 2\."):
        validate_returned(state | {"2.attn.c_attn.lora_A": torch.zeros(3, WIDTH)}, full, PLAN, variant)
    with pytest.raises(InputError, match="expected shape"):
        validate_returned(state, full, PLAN, replace(variant, lora_rank=4, adapter_size=4))
    with pytest.raises(InputError, match="values are not finite"):
        validate_returned(state | {name: state[name] * float("nan")}, full, PLAN, variant)
    with pytest.raises(InputError, match="lack"):
        validate_returned(state, full, PLAN)
