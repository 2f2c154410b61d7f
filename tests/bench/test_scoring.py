"""Multiple-choice scoring against lm-eval's own Hugging Face model, with the same requests, format and cores."""

import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from tasks.data.lm_eval.model import _encoded, language_model
from tasks.data.lm_eval_rows import harness_task, without_bars
from tasks.data.resolving import resolve_task
from tasks.engine.resources import usable_cores

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
# Rows, and how many times as fast as lm-eval's own model scoring has to be.
TASKS = {"hellaswag": (60, 3.0), "race": (12, 3.0), "sciq": (60, 3.0), "arc_easy": (60, 2.0), "piqa": (60, 2.0)}
CONTEXT = 2048
Row = Callable[[str, str, str], None]

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"needs rows of real tasks and tokenizers in {DATA}"),
]


def smollm2() -> PreTrainedModel:
    """SmolLM2-135M's shape."""
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 50257}
    return LlamaForCausalLM(LlamaConfig(**heads, **sizes, max_position_embeddings=CONTEXT, tie_word_embeddings=True))


MODELS = {
    "SmolLM2": (smollm2, "gpt2"),
    "OPT-125m": (lambda: OPTForCausalLM(OPTConfig(max_position_embeddings=CONTEXT)), "opt"),
}


@cache
def network(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return MODELS[name][0]().eval()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MODELS)
def test_scoring_a_task(name: str, task: str, row: Row) -> None:
    torch.set_num_threads(usable_cores())
    num_rows, bound = TASKS[task]
    model, tokenizer = network(name), AutoTokenizer.from_pretrained(DATA / "tokenizers" / MODELS[name][1])
    source = resolve_task({"name": task, "data": str(DATA / "tasks" / task), "num_test": num_rows})
    with without_bars():
        definition = harness_task(source, "scored")
        definition.build_all_requests()
    requests: list[Any] = _encoded(tokenizer, definition.instances)
    seconds, found = {}, {}
    # In float32 only the numbers of a few rows are of interest.
    for precision, chosen in (("float32", requests[: len(requests) // 6]), ("bfloat16", requests)):
        model.to(getattr(torch, precision))
        ours = language_model(model, tokenizer, CONTEXT, 4096, lambda items, **_: iter(items))
        stock = HFLM(pretrained=model, tokenizer=tokenizer, max_length=CONTEXT, batch_size=16)
        for way, run in (
            ("ours", ours.score_tokens),
            ("stock", partial(stock._loglikelihood_tokens, disable_tqdm=True)),
        ):
            began = time.perf_counter()
            found[precision, way] = run(chosen)
            seconds[precision, way] = time.perf_counter() - began
    for (value, greedy), (theirs, also) in zip(found["float32", "ours"], found["float32", "stock"], strict=True):
        assert value == pytest.approx(theirs, rel=1e-5, abs=1e-4)
        assert greedy == also
    stock_seconds, own_seconds = seconds["bfloat16", "stock"], seconds["bfloat16", "ours"]
    row(
        f"{task}, {definition.config.num_fewshot or 0}-shot, {num_rows} rows, {name}, bfloat16: lm-eval's model / ours",
        f"{stock_seconds:.1f} s / {own_seconds:.1f} s = {stock_seconds / own_seconds:.1f}",
        f">= {bound:.0f}",
    )
    assert stock_seconds / own_seconds >= bound
