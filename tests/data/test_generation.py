"""What a model writes after a prompt is what it writes when the prompt is alone."""

from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from flows.cli.parser import DEMO
from tasks.core.blocks.soft_prompt import insert_prompt, prompt_ids
from tasks.data.lm_eval.model import language_model
from tasks.models.loading import tokenizer_of
from tests.core.evaluation.test_batch_invariance import DYNAMIC, LIMIT, LONGROPE

SIDES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "phi3": {"original_max_position_embeddings": LIMIT, "rope_parameters": LONGROPE, "pad_token_id": 0},
    "dynamic": {"model_type": "llama", "max_position_embeddings": LIMIT, "rope_parameters": DYNAMIC},
}
# Of several lengths, two of one length; what is written crosses the limit for some.
PROMPTS = ["Anna", "Anna lives in", "Where does Anna live? Bob lives in Rome and Clara lives in Paris. Dora"]
PROMPTS += ["Bob", "Bob and Anna live in the", "Where does Anna live? Bob lives in", "Clara lives in Paris and Bob in"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tokenizer_of(DEMO.parent / "model")


def network(family: str, vocabulary: int) -> PreTrainedModel:
    """A random model of which every block matters."""
    given = {"model_type": family, **SIDES, **CONFIGS[family], "vocab_size": vocabulary}
    config: PreTrainedConfig = AutoConfig.for_model(**given)
    model, generator = AutoModelForCausalLM.from_config(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise if parameter.dim() > 1 else 1 + noise)
    return model.eval()


def written(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], size: int) -> list[str]:
    scorer = language_model(model, tokenizer, 64, 64 * size, lambda items, **_: iter(items))
    how = {"until": ["\n\n"], "max_gen_toks": 16}
    requests = [Instance("generate_until", {}, (prompt, how), at) for at, prompt in enumerate(prompts)]
    return scorer.generate_until(requests)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_prompt_is_continued_as_if_it_were_alone(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = network(family, len(tokenizer))
    lengths = [len(tokenizer.encode(prompt)) for prompt in PROMPTS]
    assert min(lengths) < LIMIT < max(lengths)
    alone = [written(model, tokenizer, [prompt], 1)[0] for prompt in PROMPTS]
    assert len(set(alone)) > 1
    assert written(model, tokenizer, PROMPTS, 8) == written(model, tokenizer, PROMPTS[::-1], 3)[::-1] == alone


def test_a_soft_prompt_stands_in_front_of_what_is_continued(tokenizer: PreTrainedTokenizerBase) -> None:
    model = network("llama", len(tokenizer))
    plainly = written(model, tokenizer, PROMPTS, 8)
    torch.manual_seed(1)
    insert_prompt(model, 3)
    virtual = list(prompt_ids(model))
    expected = []
    for prompt in PROMPTS:
        ids = [*virtual, *tokenizer.encode(prompt)]
        with torch.no_grad():
            for _ in range(16):
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        expected.append(tokenizer.decode(ids[-16:], skip_special_tokens=True))
    found = written(model, tokenizer, PROMPTS, 8)
    assert found != plainly
    assert [text.strip() for text in found] == [text.partition("\n\n")[0].strip() for text in expected]
