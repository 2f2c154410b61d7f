"""Importance with reuse equals scoring every changed model by itself, exactly."""

import pytest
import torch
from torch import nn

from tasks.core.batching import Example
from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.surgery import aliased, rearranged
from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.study.importance import deletions, replacements, rewindings, row_losses, streamed_losses
from tests.core.blocks.test_streaming import on_disk
from tests.core.rows import rows as different_rows
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model

LIMITS = {"max_length": 64, "max_tokens": 18}


def rows() -> list[Example]:
    """Rows of different lengths, two of them alike in all but the last token."""
    made = different_rows()
    return [*made, Example(made[1].prompt_ids, (made[1].answer_ids[0] ^ 1,), 5)]


def naive(model: nn.Module) -> torch.Tensor:
    """[R] losses of one model on all rows, as `validate` computes them."""
    requests = [(row.prompt_ids, row.answer_ids) for row in rows()]
    found = score_tokens(model, requests, LIMITS["max_length"], LIMITS["max_tokens"])
    return torch.tensor([-likelihood for likelihood, _ in found], dtype=torch.float64)


def without(model: nn.Module, index: int) -> nn.Module:
    return rearranged(model, [(other, False) for other in range(NUM_BLOCKS) if other != index])


def replaced(model: nn.Module, index: int, other: int) -> nn.Module:
    return rearranged(model, [(other if place == index else place, False) for place in range(NUM_BLOCKS)])


# A little memory holds the states of some batches, at some positions.
@pytest.mark.parametrize(
    ("family", "max_bytes"), [*((family, 1 << 30) for family in FAMILIES), ("qwen3", 40_000), ("bloom", 0)]
)
def test_deleting_and_replacing_equal_the_naive_way(family: str, max_bytes: int) -> None:
    model = tiny_model(family)
    found = row_losses(model, [*deletions(model), *replacements(model)], rows(), max_bytes=max_bytes, **LIMITS)
    deleted, pairs = found.varied[:NUM_BLOCKS], found.varied[NUM_BLOCKS:].view(NUM_BLOCKS, NUM_BLOCKS, -1)
    assert torch.equal(found.whole, naive(model))
    for index in range(NUM_BLOCKS):
        assert torch.equal(deleted[index], naive(without(model, index)))
        # In place of itself a block changes nothing.
        assert torch.equal(pairs[index, index], found.whole)
    for index, other in [(0, 5), (2, 1), (5, 0), (3, 4)]:
        assert torch.equal(pairs[index, other], naive(replaced(model, index, other)))
        assert not torch.equal(pairs[index, other], found.whole)
    assert len({round(float(losses.sum()), 6) for losses in deleted}) == NUM_BLOCKS
    assert found.num_tokens.tolist() == [len(row.answer_ids) for row in rows()]


def test_the_loss_is_that_of_the_framework() -> None:
    model = tiny_model("llama")
    found = row_losses(model, deletions(model), rows(), **LIMITS)
    for index in (0, 4):
        for row, loss in zip(rows(), found.varied[index], strict=True):
            ids = torch.tensor([[*row.prompt_ids, *row.answer_ids]])
            labels = ids.clone()
            labels[:, : len(row.prompt_ids)] = -100
            expected = float(without(model, index)(ids, labels=labels).loss) * len(row.answer_ids)
            assert float(loss) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_rewinding() -> None:
    initial = tiny_model("qwen3")
    tuned = aliased(initial)
    for index in (1, 4):
        get_blocks(tuned)[index] = get_blocks(tiny_model("qwen3", seed=7))[index]
    found = row_losses(tuned, rewindings(tuned, initial, [1, 2, 4]), rows(), **LIMITS)
    for place, others in [(0, [4]), (2, [1])]:
        by_hand = aliased(initial)
        for index in others:
            get_blocks(by_hand)[index] = get_blocks(tuned)[index]
        assert torch.equal(found.varied[place], naive(by_hand))
    # Block 2 was never tuned.
    assert torch.equal(found.varied[1], found.whole)
    assert not torch.equal(found.varied[0], found.whole)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model("gemma3")
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    row_losses(model, [*deletions(model), *replacements(model)], rows(), **LIMITS)
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks or "forward" in vars(module) for module in model.modules())


def test_bad_input() -> None:
    model = tiny_model("llama")
    with pytest.raises(InputError, match="single block"):
        deletions(rearranged(model, [(0, False)]))
    with torch.no_grad():
        get_blocks(model)[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite before any block is changed"):
        row_losses(model, deletions(model), rows(), **LIMITS)


@pytest.mark.parametrize("most", [4 << 30, 1], ids=["one sweep", "a sweep for each pass"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_on_disk_give_the_same_losses(family: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    expected = row_losses(model, deletions(model), rows(), **LIMITS)
    emptied, tensors = on_disk(model)
    monkeypatch.setattr("tasks.core.evaluation.scoring_states.MAX_BYTES", most)
    sweeps: list[list[int]] = []
    found = streamed_losses(
        emptied, tensors, rows(), **LIMITS, progress=lambda blocks: sweeps.append([*blocks]) or blocks
    )
    assert torch.equal(found.whole, expected.whole)
    assert torch.equal(found.varied, expected.varied)
    assert torch.equal(found.num_tokens, expected.num_tokens)
    assert sweeps == [list(range(NUM_BLOCKS))] * len(sweeps)
    assert (len(sweeps) == 1) == (most > 1)
    assert len(tensors.asked) == len(sweeps) * len(tensors), "every block is read once in a sweep"


def test_blocks_on_disk_with_bad_input() -> None:
    emptied, tensors = on_disk(tiny_model("llama"))
    tensors.tensors = {name: tensor * float("nan") for name, tensor in tensors.tensors.items()}
    with pytest.raises(InputError, match="not finite before any block is changed"):
        streamed_losses(emptied, tensors, rows(), **LIMITS)
    alone, tensors = on_disk(rearranged(tiny_model("llama"), [(0, False)]))
    with pytest.raises(InputError, match="a single block"):
        streamed_losses(alone, tensors, rows(), **LIMITS)
