"""Which returned tensors enter the full model, and how far they are from what they replace."""

import pytest
import torch

from tasks.core.blocks import get_blocks, tuned_state, with_layout
from tasks.core.errors import InputError
from tasks.core.plan import fixed_plan
from tasks.core.plugging import admit, distances
from tests.core.families import NUM_BLOCKS, tiny_model

PLAN = fixed_plan(NUM_BLOCKS, [0, 2, 5], [0, 5])


def returned(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tuned blocks as they come back, in float32."""
    return {name: tensor.clone().float() for name, tensor in tuned_state(with_layout(model, PLAN), PLAN).items()}


def test_untouched_blocks_are_admitted_unchanged():
    model = tiny_model("llama")
    for name, tensor in admit(returned(model), model, PLAN).items():
        block, _, parameter = name.partition(".")
        assert torch.equal(tensor, get_blocks(model)[int(block)].get_parameter(parameter))


def test_values_are_cast_to_the_models_format():
    model = tiny_model("llama").bfloat16()
    assert {tensor.dtype for tensor in admit(returned(model), model, PLAN).values()} == {torch.bfloat16}


def test_refusals():
    model = tiny_model("llama")
    state = returned(model)
    name = next(iter(sorted(state)))
    with pytest.raises(InputError, match=f"lack 1 tensors of the plan, first {name}"):
        admit({key: value for key, value in state.items() if key != name}, model, PLAN)
    with pytest.raises(InputError, match=r"1 tensors outside the plan, first 2\.weight"):
        admit(state | {"2.weight": torch.zeros(1)}, model, PLAN)
    with pytest.raises(InputError, match=f"{name}: expected shape"):
        admit(state | {name: torch.zeros(1)}, model, PLAN)
    with pytest.raises(InputError, match=f"{name}: values are not finite"):
        admit(state | {name: state[name] * float("nan")}, model, PLAN)


def test_a_value_that_overflows_the_models_format_is_refused():
    model = tiny_model("llama")
    state = returned(model)
    name = next(iter(sorted(state)))
    admit(state | {name: torch.full_like(state[name], 1e5)}, model, PLAN)
    with pytest.raises(InputError, match=r"not finite in torch\.float16"):
        admit(state | {name: torch.full_like(state[name], 1e5)}, model.half(), PLAN)


def test_distance_is_relative_to_the_original_block():
    model = tiny_model("llama")
    state = returned(model)
    moved = {name: tensor * (1.5 if name.startswith("5.") else 1.0) for name, tensor in state.items()}
    assert distances(moved, model, PLAN) == {0: 0.0, 5: pytest.approx(0.5)}
