"""Soft prompts: virtual tokens run through every family as vectors in front of its embeddings would."""

import pytest
import torch
from torch import nn

from tasks.core.batching import Example, collate, prepend_ids
from tasks.core.blocks.soft_prompt import insert_prompt, prompt_ids, prompt_parameters, prompt_shapes
from tasks.core.blocks.surgery import aliased
from tasks.core.errors import InputError, SettingError
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.tuning.losses import AnswerLoss
from tests.core.tiny_models import FAMILIES, VOCABULARY, WIDTH, tiny_model, token_ids

NUM_TOKENS = 3


def prompted(family: str) -> nn.Module:
    """A model with a soft prompt of values that no token has."""
    model = aliased(tiny_model(family))
    insert_prompt(model, NUM_TOKENS)
    with torch.no_grad():
        prompt_parameters(model)["prompt.weight"].copy_(
            0.3 * torch.randn(NUM_TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))
        )
    return model.eval()


def embedded(family: str, model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Logits [B, T, V] of a model without soft prompt whose embeddings stand behind the vectors of one."""
    plain = tiny_model(family)
    looked_up = plain.get_input_embeddings()(ids)
    vectors = prompt_parameters(model)["prompt.weight"].expand(len(ids), -1, -1)
    return plain(inputs_embeds=torch.cat([vectors, looked_up], 1), use_cache=False).logits[:, NUM_TOKENS:]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_virtual_tokens_are_vectors_in_front_of_the_embeddings(family: str) -> None:
    model, ids = prompted(family), token_ids()
    virtual = torch.tensor(prompt_ids(model)).expand(len(ids), -1)
    assert prompt_ids(model) == tuple(range(VOCABULARY, VOCABULARY + NUM_TOKENS))
    found = model(torch.cat([virtual, ids], 1), use_cache=False).logits[:, NUM_TOKENS:]
    assert torch.allclose(found, embedded(family, model, ids), atol=1e-5)
    # Rows without virtual tokens are as before.
    assert torch.equal(model(ids, use_cache=False).logits, tiny_model(family)(ids, use_cache=False).logits)


@pytest.mark.parametrize("family", ["llama", "opt", "mistral"])
@torch.no_grad()
def test_scores_are_those_behind_the_prompt(family: str) -> None:
    model, ids = prompted(family), token_ids(1, 12)
    row = ids[0].tolist()
    requests = [(row[:8], row[8:]), (row[:8], row[9:]), (row[:4], row[4:6])]
    found = score_tokens(model, requests, 64, 256)
    for (before, scored), (value, _) in zip(requests, found, strict=True):
        logits = embedded(family, model, torch.tensor([[*before, *scored]]))[0].log_softmax(-1)
        places = range(len(before) - 1, len(before) + len(scored) - 1)
        assert value == pytest.approx(
            sum(float(logits[place, token]) for place, token in zip(places, scored, strict=True)), abs=1e-4
        )


@torch.no_grad()
def test_a_long_row_loses_its_own_beginning() -> None:
    model, row = prompted("llama"), token_ids(1, 12)[0].tolist()
    # Nine tokens fit: three virtual ones, and the last six inputs.
    (short, _), (long, _) = score_tokens(model, [(row[4:10], row[10:]), (row[:10], row[10:])], 9, 256)
    (cut, _) = score_tokens(model, [(row[5:10], row[10:])], 64, 256)[0]
    assert short == long == pytest.approx(cut, abs=1e-5)
    with pytest.raises(InputError, match="an answer of 7 tokens does not fit into the 6"):
        score_tokens(model, [(row[:2], row[:7])], 9, 256)


def test_gradients_reach_the_prompt_alone() -> None:
    model = prompted("llama")
    model.requires_grad_(False)
    (vectors,) = prompt_parameters(model).values()
    vectors.requires_grad_(True)
    rows = prepend_ids(prompt_ids(model), [Example((5, 6, 7), (8, 9)), Example((10,), (11,), 1)])
    summed, count = AnswerLoss(model)(collate(rows, 0))
    summed.backward()
    assert count == 3
    assert vectors.grad is not None
    assert vectors.grad.abs().min() > 0


def test_it_starts_with_tokens_of_the_vocabulary() -> None:
    model = tiny_model("llama")
    torch.manual_seed(4)
    insert_prompt(model, 5)
    (vectors,) = prompt_parameters(model).values()
    table = model.get_input_embeddings().weight
    assert all(any(torch.equal(vector, row) for row in table) for vector in vectors)


def test_a_second_table_of_tokens_is_refused() -> None:
    model = tiny_model("llama")
    model.add_module("per_layer", nn.Embedding(VOCABULARY, 4))
    with pytest.raises(SettingError, match=r"llama looks up tokens in a second table \(per_layer\)"):
        prompt_shapes(model, 2)
