"""Proxies: compare an emulator with the full model on the model owner's text, without tuning."""

from typing import TYPE_CHECKING

from tasks.artifacts.plan import read_plan
from tasks.artifacts.proxies import ProxiesSummary, write_proxies
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.core.plan.layout import Plan


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), gpu=True)
def proxies(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    plan: Ref,
    *,
    emulator: Ref | None = None,
    num_rows: int,
    split: Split,
    max_tokens: int,
    precision: str,
) -> ProxiesSummary:
    """Compute gradient cosine, divergence of next tokens, and error of states of an emulator against the full model.

    emulator: a compressed or distilled one; by default that of the plan, which shares the full model's memory. Computed
    on the first `num_rows` rows of the support split, the model owner's text from which the plan is made, always on
    prompt and answer, because losses are of answers. Writes `proxies.json` (`tasks.core.evaluation.proxies.Proxies`,
    with every tuned block).

    Raises:
        InputError: when a number is not finite.
    """
    from tasks.core.evaluation.proxies import measure_proxies
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_tokenizer

    how = read_plan(work.open(plan))
    tokenizer = load_tokenizer(model)
    examples = load_examples(task, split, tokenizer, model.context, limit=num_rows)
    found = measure_proxies(
        *_pair(work, model, emulator, how, precision),
        how,
        examples.rows[:num_rows],
        max_tokens=work.pass_tokens(max_tokens, "support.max_tokens"),
        pad_id=tokenizer.pad_token_id or 0,
        progress=lambda batches: work.progress(batches, "batches"),
    )
    write_proxies(work.out, found)
    work.metric(None, gradient_cosine=found.gradient_cosine, kl=found.kl, state_error=found.state_error)
    return {
        "gradient_cosine": found.gradient_cosine,
        "kl": found.kl,
        "state_error": found.state_error,
        "num_rows": len(examples.rows[:num_rows]),
        "num_answer_tokens": found.num_answer_tokens,
    }


def _pair(
    work: Work, model: ModelSource, emulator: Ref | None, plan: "Plan", precision: str
) -> "tuple[PreTrainedModel, PreTrainedModel]":
    """Return the full model and the emulator, which share tensors unless it has others or both are spread over GPUs."""
    from tasks.core.blocks.devices import EVERY, place
    from tasks.core.blocks.surgery import with_layout
    from tasks.models.emulators.emulator import load_emulator
    from tasks.models.loading import load_model

    if emulator is not None:
        full = load_model(model, precision)
        given = load_emulator(work.open(emulator), dtype=precision)
        return place(full, work.device), place(given, work.device)
    if work.device != EVERY:
        full = load_model(model, precision, work.device)
        return full, with_layout(full, plan)
    full = load_model(model, precision)
    own = with_layout(full, plan)
    return place(full, EVERY), place(own, EVERY)
