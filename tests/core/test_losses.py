"""The loss on answer positions against the plain Hugging Face loss: value and every gradient."""

import pytest
import torch

from tasks.core.batching import Example, collate
from tasks.core.losses import AnswerLoss, mean_loss
from tests.core.families import FAMILIES, VOCABULARY, tiny_model

SHAPES = ((5, 3), (2, 1), (9, 2), (4, 6))


def examples() -> list[Example]:
    """Rows with (prompt, answer) tokens of different lengths."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, (prompt, answer) in enumerate(SHAPES, 1):
        ids = torch.randint(3, VOCABULARY, (prompt + answer,), generator=generator).tolist()
        rows.append(Example(tuple(ids[:prompt]), tuple(ids[prompt:]), number))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_value_and_gradients_equal_the_hugging_face_loss(family):
    batch = collate(examples(), pad_id=0)
    model, plain = tiny_model(family), tiny_model(family)
    summed, count = AnswerLoss(model)(batch)
    assert count == sum(answer for _, answer in SHAPES)
    (summed / count).backward()
    expected = plain(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False).loss
    expected.backward()
    torch.testing.assert_close(summed / count, expected, atol=1e-5, rtol=1e-5)
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    assert any(gradient is not None for gradient in gradients.values())
    for name, parameter in model.named_parameters():
        if gradients[name] is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-4, msg=name)


def test_batches_add_up_to_the_mean_over_all_answer_tokens():
    model = tiny_model("llama")
    rows = examples()
    parts = [collate(rows[:1], 0), collate(rows[1:], 0)]
    whole, count = AnswerLoss(model)(collate(rows, 0))
    assert mean_loss(AnswerLoss(model), parts) == pytest.approx(whole.item() / count, abs=1e-5)


def test_a_row_without_a_prompt_counts_all_but_its_first_token():
    _, count = AnswerLoss(tiny_model("llama"))(collate([Example((), (3, 4, 5), 1)], 0))
    assert count == 2


def test_the_head_sees_answer_positions_only():
    model = tiny_model("llama")
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:-1].numel()))
    AnswerLoss(model)(collate(examples(), 0))
    assert seen == [sum(answer for _, answer in SHAPES)]
