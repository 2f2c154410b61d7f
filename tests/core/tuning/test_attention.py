"""Attention of a bfloat16 tuning on a CPU: short rows in float32, with the gradients of the stock kernel."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.core.batching import Example, collate
from tasks.core.blocks.surgery import with_layout
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.attention import MOST_TOKENS, float32_attention
from tasks.core.tuning.losses import AnswerLoss
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import TunedBlocks
from tests.core.tiny_models import NUM_BLOCKS, VOCABULARY, tiny_model

# Own heads, shared heads, and sliding windows.
FAMILIES = ["opt", "llama", "gemma3"]
PLAN = fixed_plan(NUM_BLOCKS, [0, 2, 3, 5], [0, 5])


@pytest.fixture
def formats(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Data types of the queries that torch's attention gets."""
    seen, own = [], torch.nn.functional.scaled_dot_product_attention

    def attention(query: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(query.dtype if not torch.is_autocast_enabled("cpu") else torch.bfloat16)
        return own(query, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    return seen


def rows(longest: int) -> list[Example]:
    """Three rows of different lengths."""
    ids = torch.randint(3, VOCABULARY, (longest,), generator=torch.Generator().manual_seed(0)).tolist()
    return [
        Example(tuple(ids[: length - 2]), tuple(ids[:2]), length) for length in (longest // 3, longest // 2, longest)
    ]


def gradients(family: str, wide: bool, precision: str = "bfloat16", dropout: float = 0.0) -> Tensor:
    """Of the answers' loss with respect to all weights."""
    model = tiny_model(family).train()
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout
    torch.manual_seed(0)
    narrow = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    with float32_attention(model) if wide else nullcontext(), narrow:
        loss = AnswerLoss(model)(collate(rows(24), 0))[0]
    loss.backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradients_are_as_near_to_those_of_float32(family: str, formats: list[torch.dtype]) -> None:
    exact, stock = gradients(family, False, "float32"), gradients(family, False)
    assert set(formats) == {torch.float32, torch.bfloat16}
    formats.clear()
    ours = gradients(family, True)
    assert set(formats) == {torch.float32}
    error, usual = (ours - exact).norm() / exact.norm(), (stock - exact).norm() / exact.norm()
    assert 0 < error <= 1.5 * usual


def test_dropout_is_the_same_in_the_backward_pass() -> None:
    one, other = gradients("llama", True, dropout=0.3), gradients("llama", True, dropout=0.3)
    assert torch.equal(one, other)
    stock = gradients("llama", False, dropout=0.3)
    assert (one - stock).norm() / stock.norm() < 0.05
    assert (one - gradients("llama", True)).norm() / stock.norm() > 0.05


def test_long_rows_and_passes_without_gradient_keep_their_format(formats: list[torch.dtype]) -> None:
    model = tiny_model("llama")
    with float32_attention(model), torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            AnswerLoss(model)(collate(rows(24), 0))
        assert set(formats) == {torch.bfloat16}
        AnswerLoss(model)(collate(rows(MOST_TOKENS + 1), 0))
    assert set(formats) == {torch.bfloat16}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_tuning_leaves_the_model_as_it_found_it(precision: str, formats: list[torch.dtype]) -> None:
    model = with_layout(tiny_model("llama"), PLAN)
    settings = TrainSettings(learning_rate=1e-3, num_steps=2, batch_size=2)
    train(TunedBlocks(model, PLAN), rows(24), [], settings, precision=precision)
    assert set(formats) == {torch.float32}
    assert model.config._attn_implementation == "sdpa"


def test_other_implementations_are_left_alone() -> None:
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    with float32_attention(model):
        assert model.config._attn_implementation == "eager"
