"""Which returned tensors enter the full model, and how far they are from what they replace."""

import pytest
import torch

from tasks.core.blocks.surgery import get_blocks, tuned_state, with_layout
from tasks.core.errors import InputError
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.returned import distances, validate_returned
from tests.core.tiny_models import NUM_BLOCKS, tiny_model

PLAN = fixed_plan(NUM_BLOCKS, [0, 2, 5], [0, 5])


def returned(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tuned blocks as they come back, in float32."""
    return {name: tensor.clone().float() for name, tensor in tuned_state(with_layout(model, PLAN), PLAN).items()}


def test_untouched_blocks_are_admitted_unchanged():
    model = tiny_model("llama")
    for name, tensor in validate_returned(returned(model), model, PLAN).items():
        block, _, parameter = name.partition(".")
        assert torch.equal(tensor, get_blocks(model)[int(block)].get_parameter(parameter))


def test_values_are_cast_to_the_models_format():
    model = tiny_model("llama").bfloat16()
    assert {tensor.dtype for tensor in validate_returned(returned(model), model, PLAN).values()} == {torch.bfloat16}


def test_tensors_laid_out_otherwise_are_admitted_as_the_file_format_wants_them():
    model = tiny_model("llama")
    state = returned(model)
    name = next(name for name, tensor in state.items() if tensor.dim() == 2)
    admitted = validate_returned(state | {name: state[name].T.contiguous().T}, model, PLAN)
    assert admitted[name].is_contiguous()
    assert torch.equal(admitted[name], state[name])


def test_admitting_leaves_the_model_as_it_was():
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    validate_returned({name: tensor + 1 for name, tensor in returned(model).items()}, model, PLAN)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_refusals():
    model = tiny_model("llama")
    state = returned(model)
    name = next(iter(sorted(state)))
    with pytest.raises(InputError, match=f"lack 1 tensors of the plan, first {name}"):
        validate_returned({key: value for key, value in state.items() if key != name}, model, PLAN)
    with pytest.raises(InputError, match=r"1 tensors outside the plan, first 2\.weight"):
        validate_returned(state | {"2.weight": torch.zeros(1)}, model, PLAN)
    with pytest.raises(InputError, match=f"{name}: expected shape"):
        validate_returned(state | {name: torch.zeros(1)}, model, PLAN)
    with pytest.raises(InputError, match=f"{name}: values are not finite"):
        validate_returned(state | {name: state[name] * float("nan")}, model, PLAN)


def test_a_value_that_overflows_the_models_format_is_refused():
    model = tiny_model("llama")
    state = returned(model)
    name = next(iter(sorted(state)))
    validate_returned(state | {name: torch.full_like(state[name], 1e5)}, model, PLAN)
    with pytest.raises(InputError, match=r"not finite in torch\.float16"):
        validate_returned(state | {name: torch.full_like(state[name], 1e5)}, model.half(), PLAN)


def test_distance_is_relative_to_the_original_block():
    model = tiny_model("llama")
    state = returned(model)
    moved = {name: tensor * (1.5 if name.startswith("5.") else 1.0) for name, tensor in state.items()}
    assert distances(moved, model, PLAN) == {0: 0.0, 5: pytest.approx(0.5)}


def test_distance_is_of_the_whole_block_not_a_mean_over_its_tensors():
    model = tiny_model("llama")
    state = returned(model)
    original = torch.cat([tensor.flatten() for name, tensor in state.items() if name.startswith("0.")]).double()
    noise = {name: torch.full_like(tensor, 0.01 * place) for place, (name, tensor) in enumerate(state.items())}
    change = torch.cat([noise[name].flatten() for name in state if name.startswith("0.")]).double()
    found = distances({name: tensor + noise[name] for name, tensor in state.items()}, model, PLAN)
    assert found[0] == pytest.approx(float(change.norm() / original.norm()), rel=1e-5)


def test_distance_of_huge_values_and_of_blocks_of_zeros_is_a_number():
    model = tiny_model("llama")
    state = returned(model)
    huge = {name: torch.full_like(tensor, 1e30) for name, tensor in state.items()}
    assert all(1e28 < distance < float("inf") for distance in distances(huge, model, PLAN).values())
    with torch.no_grad():
        for parameter in get_blocks(model)[0].parameters():
            parameter.zero_()
    assert distances(returned(model), model, PLAN) == {0: 0.0, 5: 0.0}
