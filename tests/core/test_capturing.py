"""Pooled states of every block against what the model itself returns."""

import pytest
import torch

from tasks.core.batching import Example
from tasks.core.blocks.surgery import get_blocks
from tasks.core.capturing import capture_states
from tasks.core.errors import InputError
from tests.core.blocks.test_streaming import on_disk
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, VOCABULARY, WIDTH, tiny_model

LENGTHS = (9, 3, 12, 5, 7)


def examples() -> list[Example]:
    """Rows of different lengths, in an order that is not sorted."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    return [Example(tuple(row[:-1]), tuple(row[-1:]), number) for number, row in enumerate(rows, 1)]


def last_tokens(model: torch.nn.Module) -> torch.Tensor:
    """[N, n, width]: each block's raw output at each row's last token, one unpadded row at a time, by plain hooks."""
    outputs: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple, output: torch.Tensor | tuple) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output).reshape(-1, WIDTH)[-1])

    hooks = [block.register_forward_hook(keep) for block in get_blocks(model)]
    with torch.no_grad():
        for row in examples():
            model(torch.tensor([[*row.prompt_ids, *row.answer_ids]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(outputs).unflatten(0, (len(LENGTHS), NUM_BLOCKS)).transpose(0, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_the_raw_outputs_in_the_order_of_the_rows(family):
    model = tiny_model(family)
    states = capture_states(model, examples(), pooling="last", max_tokens=24)
    assert states.pooled.shape == (NUM_BLOCKS + 1, len(LENGTHS), WIDTH)
    assert states.pooled.dtype == torch.float32
    torch.testing.assert_close(states.pooled[1:], last_tokens(model), atol=1e-4, rtol=1e-4)
    assert torch.equal(states.pooled, states.last)
    assert states.num_tokens == sum(LENGTHS)


@pytest.mark.parametrize("pooling", ["mean_weighted", "mean", "max_nonpad", "min"])
def test_batch_size_and_padding_do_not_matter(pooling):
    model = tiny_model("llama")
    alone = capture_states(model, examples(), pooling=pooling, max_tokens=1)
    together = capture_states(model, examples(), pooling=pooling, max_tokens=1000)
    torch.testing.assert_close(alone.pooled, together.pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.block_influence, together.block_influence, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_blocks_on_disk_nothing_differs(family, final_norm):
    model = tiny_model(family)
    options = {"with_final_norm": final_norm, "max_tokens": 24}
    expected = capture_states(model, examples(), **options)
    emptied, tensors = on_disk(model)
    found = capture_states(emptied, examples(), **options, tensors=tensors)
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(found.last, expected.last)
    assert torch.equal(found.block_influence, expected.block_influence)


@pytest.mark.parametrize("pooling", ["mean", "min"])
def test_last_tokens_come_along_whatever_the_pooling(pooling):
    model = tiny_model("opt")
    states = capture_states(model, examples(), pooling=pooling, max_tokens=24)
    torch.testing.assert_close(states.last[1:], last_tokens(model), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(states.pooled, states.last, atol=0.1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_pooled_states_and_influence_equal_loops_over_the_models_own_hidden_states(family):
    # The framework's list: before block 0, then after each block, the last one after the final norm.
    model = tiny_model(family)
    means, changes = [], []
    for row in examples():
        with torch.no_grad():
            output = model(torch.tensor([[*row.prompt_ids, *row.answer_ids]]), output_hidden_states=True)
        hidden = torch.cat(output.hidden_states)
        means.append(hidden.mean(1))
        changes.append(1 - torch.cosine_similarity(hidden[:-1], hidden[1:], dim=-1))
    states = capture_states(model, examples(), pooling="mean", with_final_norm=True, max_tokens=24)
    torch.testing.assert_close(states.pooled, torch.stack(means, 1), atol=1e-5, rtol=1e-4)
    # Influence is of raw outputs, also where the last state is normed: the framework's last entry does not count.
    expected = torch.cat(changes, 1).mean(1)
    torch.testing.assert_close(states.block_influence[:-1], expected[:-1], atol=1e-5, rtol=1e-4)
    raw = capture_states(model, examples(), pooling="mean", max_tokens=24)
    assert torch.equal(states.block_influence, raw.block_influence)


def test_dropout_is_off_even_in_a_model_that_was_being_trained():
    expected = capture_states(tiny_model("opt"), examples())
    training = tiny_model("opt").train()
    assert torch.equal(capture_states(training, examples()).pooled, expected.pooled)


def test_batches_hold_no_more_than_was_allowed_and_pad_with_the_pad_token():
    model, seen = tiny_model("llama"), []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, args, __: seen.append(args[0]))
    shown: list[list] = []

    def progress(batches: list) -> list:
        shown.append(batches)
        return batches

    capture_states(model, examples(), max_tokens=20, pad_id=2, progress=progress)
    handle.remove()
    assert len(shown[0]) == len(seen) > 1
    assert sorted(row for batch in shown[0] for row in batch) == list(range(len(LENGTHS)))
    assert all(ids.numel() <= 20 for ids in seen)
    # No example holds token 2 or 0 itself.
    assert sum(int((ids == 2).sum()) for ids in seen) == sum(ids.numel() for ids in seen) - sum(LENGTHS)


def test_states_take_no_part_in_gradients():
    states = capture_states(tiny_model("llama").requires_grad_(), examples())
    assert not states.pooled.requires_grad
    assert not states.last.requires_grad


def test_the_final_norm_changes_the_last_state_alone():
    model = tiny_model("llama")
    raw = capture_states(model, examples(), pooling="last")
    normed = capture_states(model, examples(), pooling="last", with_final_norm=True)
    assert torch.equal(raw.pooled[:-1], normed.pooled[:-1])
    torch.testing.assert_close(normed.pooled[-1], model.model.norm(raw.pooled[-1]).detach(), atol=1e-5, rtol=1e-5)


def test_head_and_blocks_are_untouched_afterwards():
    model = tiny_model("opt")
    before = model(torch.tensor([[3, 4, 5]])).logits
    capture_states(model, examples())
    assert torch.equal(model(torch.tensor([[3, 4, 5]])).logits, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_broken_block_is_named(value):
    model = tiny_model("llama")
    with torch.no_grad():
        get_blocks(model)[2].mlp.down_proj.weight[0, 0] = value
    with pytest.raises(InputError, match="output of block 2 holds NaN or infinite"):
        capture_states(model, examples())


def test_broken_embeddings_are_named():
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(InputError, match="output of the embeddings"):
        capture_states(model, examples())
