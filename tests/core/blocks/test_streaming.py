"""Blocks that stay on disk: the states are those of a pass in memory, one block is in memory at a time."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from tasks.core.blocks import streaming
from tasks.core.blocks.locate_blocks import find_blocks
from tasks.core.blocks.streaming import can_stream, run_streamed
from tasks.core.blocks.surgery import aliased, base_model_and_head, capture_blocks, get_blocks
from tests.core.evaluation.test_batch_invariance import EVERY, network
from tests.core.tiny_models import NUM_BLOCKS, tiny_model, token_ids

BATCHES = [(token_ids(2, 12), None), (token_ids(3, 7, seed=2), torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 7]))]


class Stored(Mapping[str, Tensor]):
    """Tensors by name, which notes who asks for them."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.asked = tensors, list[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def on_disk(model: nn.Module) -> tuple[nn.Module, Stored]:
    """The model with its blocks on the meta device, and their tensors."""
    path, _ = find_blocks(model)
    emptied = aliased(model)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(f"{path}.")}
    for block in get_blocks(emptied):
        for module in block.modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[leaf] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    return emptied, Stored(tensors)


@torch.inference_mode()
def in_memory(model: nn.Module) -> list[list[Tensor]]:
    # Some families add to a state in place, later in the pass.
    with capture_blocks(model, lambda index, state: state.clone()) as run:
        states = [run(ids, mask) for ids, mask in BATCHES]
    base, _ = base_model_and_head(model)
    lasts = [base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state for ids, mask in BATCHES]
    return [[*found, last] for found, last in zip(states, lasts, strict=True)]


@torch.inference_mode()
def streamed(model: nn.Module) -> list[list[Tensor]]:
    emptied, tensors = on_disk(model)
    seen: dict[tuple[int, int], Tensor] = {}
    last: list[Tensor] = []
    run_streamed(
        emptied,
        tensors,
        BATCHES,
        lambda number, index, before, state: seen.update({(number, index): state.clone()}),
        lambda number, state: last.append(state),
    )
    places = range(len(get_blocks(model)) + 1)
    return [[*(seen[number, index] for index in places), last[number]] for number in range(len(BATCHES))]


# Its upper blocks use keys and values of lower ones, which are not in memory then.
SHARE_KEYS = {"gemma4_text"}
# Its convolution rounds by where its input lies in memory.
ROUNDED = {"recurrent_gemma"}


@pytest.mark.parametrize("family", sorted(name for name in EVERY if "capture" in EVERY[name]))
def test_states_are_those_of_a_pass_in_memory(family: str) -> None:
    model = network(family)
    assert can_stream(model) == (family not in SHARE_KEYS)
    if family in SHARE_KEYS:
        return
    for found, expected in zip(streamed(model), in_memory(model), strict=True):
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other) or (family in ROUNDED and torch.allclose(one, other, atol=1e-5))


def test_each_block_is_read_once_and_given_back() -> None:
    model = tiny_model("llama")
    emptied, tensors = on_disk(model)
    held = []

    def see(number: int, index: int, before: Tensor | None, state: Tensor) -> None:
        held.append(sum(not parameter.is_meta for block in get_blocks(emptied) for parameter in block.parameters()))

    with torch.inference_mode():
        run_streamed(emptied, tensors, BATCHES, see)
    of_one = len(list(get_blocks(model)[0].parameters()))
    assert held == [0] * len(BATCHES) + [of_one] * (NUM_BLOCKS * len(BATCHES))
    assert sorted(tensors.asked) == sorted(tensors.tensors)
    assert all(parameter.is_meta for block in get_blocks(emptied) for parameter in block.parameters())
    assert all("forward" not in vars(block) for block in get_blocks(emptied))


def test_gaps_between_tensors_are_given_back_after_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    seen: list[int] = []
    monkeypatch.setattr(streaming, "give_back", lambda: given.append(len(seen)))
    model, tensors = on_disk(tiny_model("llama"))
    run_streamed(model, tensors, BATCHES, lambda batch, index, before, state: seen.append(index))
    assert given == [len(BATCHES) * (1 + done) for done in range(1, NUM_BLOCKS + 1)]


def test_a_tensor_that_cannot_be_read_leaves_the_model_as_it_was() -> None:
    emptied, tensors = on_disk(tiny_model("opt"))
    missing = next(name for name in tensors.tensors if ".2." in name)
    del tensors.tensors[missing]
    with torch.inference_mode(), pytest.raises(KeyError):
        run_streamed(emptied, tensors, BATCHES)
    assert all(parameter.is_meta for block in get_blocks(emptied) for parameter in block.parameters())
    assert all("forward" not in vars(block) for block in get_blocks(emptied))
