"""The loss on answer positions against the plain Hugging Face loss: value and every gradient."""

import pytest
import torch
from transformers import LlamaModel, PreTrainedModel

from tasks.core.batching import Batch, Example, collate
from tasks.core.errors import InputError
from tasks.core.tuning.losses import AnswerLoss, mean_loss
from tests.core.tiny_models import FAMILIES, VOCABULARY, tiny_model

SHAPES = ((5, 3), (2, 1), (9, 2), (4, 6))


def examples() -> list[Example]:
    """Rows with (prompt, answer) tokens of different lengths."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, (prompt, answer) in enumerate(SHAPES, 1):
        ids = torch.randint(3, VOCABULARY, (prompt + answer,), generator=generator).tolist()
        rows.append(Example(tuple(ids[:prompt]), tuple(ids[prompt:]), number))
    return rows


def padded_on_the_left(batch: Batch) -> Batch:
    """The same rows, each moved to the end of its line."""
    shifts = (batch.attention_mask == 0).sum(1).tolist()

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([row.roll(shift) for row, shift in zip(tensor, shifts, strict=True)])

    return Batch(moved(batch.input_ids), moved(batch.attention_mask), moved(batch.labels), batch.rows)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_value_and_gradients_equal_the_hugging_face_loss(family, side):
    batch = collate(examples(), pad_id=0)
    if side == "left":
        batch = padded_on_the_left(batch)
    require_equal_to_plain(tiny_model(family), tiny_model(family), batch)


def require_equal_to_plain(model: PreTrainedModel, plain: PreTrainedModel, batch: Batch) -> None:
    """Fail unless value and gradients are those of the Hugging Face loss of `plain`, the same model once more."""
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


def test_soft_caps_of_logits_count():
    models = [tiny_model("gemma2") for _ in range(2)]
    # Small enough that it bends every logit of so small a model.
    for model in models:
        model.config.final_logit_softcapping = 0.5
    batch = collate(examples(), 0)
    assert AnswerLoss(models[0])(batch)[0] != AnswerLoss(tiny_model("gemma2"))(batch)[0]
    require_equal_to_plain(*models, batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_a_row(family):
    model = tiny_model(family)
    together = AnswerLoss(model)(collate(examples(), 0))[0].item()
    alone = [AnswerLoss(model)(collate([row], 0))[0].item() for row in examples()]
    assert together == pytest.approx(sum(alone), abs=1e-4)


def test_the_softmax_is_float32_also_where_the_model_is_narrower():
    model, batch = tiny_model("llama").bfloat16(), collate(examples(), 0)
    summed, _ = AnswerLoss(model)(batch)
    logits = model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits[:, :-1].double()
    labels = batch.labels[:, 1:]
    chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    assert summed.dtype == torch.float32
    assert summed.item() == pytest.approx(-chosen[labels >= 0].sum().item(), rel=1e-5)


def test_batches_add_up_to_the_mean_over_all_answer_tokens():
    model = tiny_model("llama")
    rows = examples()
    parts = [collate(rows[:1], 0), collate(rows[1:], 0)]
    whole, count = AnswerLoss(model)(collate(rows, 0))
    assert mean_loss(AnswerLoss(model), parts) == pytest.approx(whole.item() / count, abs=1e-5)


def test_a_mean_keeps_no_graph_and_that_of_no_batches_is_zero():
    model = tiny_model("llama")
    mean_loss(AnswerLoss(model), [collate(examples(), 0)])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert mean_loss(AnswerLoss(model), []) == 0.0


def test_a_model_without_a_head_is_refused():
    with pytest.raises(InputError, match="LlamaModel has no language-model head"):
        AnswerLoss(LlamaModel(tiny_model("llama").config))


def test_a_row_without_a_prompt_counts_all_but_its_first_token():
    _, count = AnswerLoss(tiny_model("llama"))(collate([Example((), (3, 4, 5), 1)], 0))
    assert count == 2


def test_the_head_sees_answer_positions_only():
    model = tiny_model("llama")
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:-1].numel()))
    AnswerLoss(model)(collate(examples(), 0))
    assert seen == [sum(answer for _, answer in SHAPES)]


def test_the_loss_of_every_row():
    model, batch = tiny_model("llama"), collate(examples(), pad_id=0)
    with torch.no_grad():
        sums, counts = AnswerLoss(model).by_row(batch)
        alone = [AnswerLoss(model)(collate([row], 0)) for row in examples()]
    assert counts.tolist() == [count for _, count in alone]
    assert sums.tolist() == pytest.approx([float(summed) for summed, _ in alone], rel=1e-5)
