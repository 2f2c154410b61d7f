"""Multiple-choice scoring against lm-eval's own Hugging Face model, with the same requests, format and cores.

The format is the one that `model.precision = "auto"` takes on this machine.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from tasks.core.rates import measure_rates
from tasks.data.lm_eval.model import _encoded, language_model
from tasks.data.lm_eval_rows import harness_task, without_bars
from tasks.data.resolving import resolve_task
from tasks.engine.precision import faster_format
from tasks.engine.resources import usable_cores
from tests.bench.real_rows import CONTEXT, DATA, MISSING, MODELS, network

# Rows, and how many times as fast as lm-eval's own model scoring has to be.
TASKS = {"hellaswag": (60, 3.0), "race": (12, 3.0), "sciq": (60, 3.0), "arc_easy": (60, 2.0), "piqa": (60, 2.0)}
# Rows that lm-eval's model runs together; the better one counts.
STOCK_BATCHES = (1, 16)
Row = Callable[[str, str, str], None]

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not DATA.is_dir(), reason=MISSING),
]


def ways(name: str, precision: str, tokenizer: Any) -> dict[str, Callable[[list[Any]], list[Any]]]:
    """Functions that score requests with a model of this shape: ours, and lm-eval's with each batch size."""
    model = network(name).to(getattr(torch, precision))
    ours = language_model(model, tokenizer, CONTEXT, 4096, lambda items, **_: iter(items))
    runs: dict[str, Any] = {"ours": ours.score_tokens}
    for batch_size in STOCK_BATCHES:
        stock = HFLM(pretrained=model, tokenizer=tokenizer, max_length=CONTEXT, batch_size=batch_size)
        runs[f"stock {batch_size}"] = partial(stock._loglikelihood_tokens, disable_tqdm=True)
    return runs


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MODELS)
def test_scoring_a_task(name: str, task: str, row: Row) -> None:
    torch.set_num_threads(usable_cores())
    num_rows, bound = TASKS[task]
    tokenizer = AutoTokenizer.from_pretrained(DATA / "tokenizers" / MODELS[name][1])
    source = resolve_task({"name": task, "data": str(DATA / "tasks" / task), "num_test": num_rows})
    with without_bars():
        definition = harness_task(source, "scored")
        definition.build_all_requests()
    requests: list[Any] = _encoded(tokenizer, definition.instances)
    exact = ways(name, "float32", tokenizer)
    some = requests[: len(requests) // 6]
    for (value, greedy), (theirs, also) in zip(exact["ours"](some), exact["stock 1"](some), strict=True):
        assert value == pytest.approx(theirs, rel=1e-5, abs=1e-4)
        assert greedy == also
    precision = faster_format(measure_rates("cpu"))
    runs = exact if precision == "float32" else ways(name, precision, tokenizer)
    seconds = dict.fromkeys(runs, math.inf)
    for way in [*runs, *runs]:
        began = time.perf_counter()
        runs[way](requests)
        seconds[way] = min(time.perf_counter() - began, seconds[way])
    own_seconds, stock_seconds = seconds["ours"], min(seconds[f"stock {size}"] for size in STOCK_BATCHES)
    shots = definition.config.num_fewshot or 0
    row(
        f"{task}, {shots}-shot, {num_rows} rows, {name}, {precision}: lm-eval's model / ours",
        f"{stock_seconds:.1f} s / {own_seconds:.1f} s = {stock_seconds / own_seconds:.1f}",
        f">= {bound:.0f}",
    )
    assert stock_seconds / own_seconds >= bound
