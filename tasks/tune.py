"""Tune: train the tuned blocks inside the emulator, on rows that never leave the data owner."""

import logging
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.artifacts.plan import read_plan
from tasks.artifacts.tuning import TuningSummary, as_tuning_summary
from tasks.core.errors import DivergedError, in_table
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.core.tuning.settings import TrainSettings
from tasks.data.sources import TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.core.plan.layout import Plan

logger = logging.getLogger(__name__)


@stage(packages=("torch", "transformers", "tokenizers", "accelerate", "lm_eval", "peft"), gpu=True)
def tune(
    work: Work,
    task: TaskSource,
    plan: Ref,
    *,
    emulator: Ref | None = None,
    model: ModelSource | None = None,
    settings: TrainSettings,
    precision: str,
    variant: TuningMethod = WHOLE_BLOCKS,
) -> TuningSummary:
    """Train an emulator, or with `model` the blocks of the full model, on the task's training split.

    Exactly one of emulator and model is given. variant: which tensors are trained, and how; by default whole tuned
    blocks. Writes `tuned.safetensors` (the trained tensors in float32), `variant.json` and `plan.json`, and
    `emulator.safetensors` if frozen blocks were trained, but no other part of the model. A tuning that diverges and may
    do so (`settings.may_diverge`) has the reason as its result: `diverged` in the summary and in `diverged.json`.

    Raises:
        DivergedError: when the loss or a gradient is not finite.
        InputError: when the plan or the model's family leaves nothing to train.
    """
    from tasks.engine.ranks import process_group, run_ranks

    arguments: dict[str, Any] = {"task": task, "plan": plan, "emulator": emulator, "model": model}
    arguments |= {"settings": settings, "precision": precision, "variant": variant}
    if work.num_processes > 1 and work.rank is None:
        return as_tuning_summary(run_ranks(work, (__name__, "tune"), arguments))
    began = time.monotonic()
    with process_group(work):
        try:
            return _tune(work, **arguments)
        except DivergedError as error:
            if not settings.may_diverge:
                raise
            return _diverged(work, error, time.monotonic() - began)


def _tune(
    work: Work,
    task: TaskSource,
    plan: Ref,
    emulator: Ref | None,
    model: ModelSource | None,
    settings: TrainSettings,
    precision: str,
    variant: TuningMethod,
) -> TuningSummary:
    """Run the stage in this process, alone or as one of several ranks, of which the first writes the result."""
    from tasks.core.blocks.locate_blocks import text_config
    from tasks.core.blocks.soft_prompt import prompt_ids
    from tasks.core.blocks.surgery import tuned_state
    from tasks.core.tuning.failures import Names
    from tasks.core.tuning.limiting import ChangeLimit
    from tasks.core.tuning.private_steps import privacy_facts, require_small_delta
    from tasks.core.tuning.train import train
    from tasks.core.tuning.trainable import make_trained
    from tasks.data.tokenize import load_examples
    from tasks.engine.usage import Usage
    from tasks.models.loading import load_tokenizer
    from tasks.models.tuned_blocks import write_returned

    how = read_plan(work.open(plan))
    network, source = _network(work, emulator, model, how, precision)
    tokenizer = load_tokenizer(source)
    with in_table("tune"):
        limit = ChangeLimit(tuned_state(network, how), variant, settings.max_change) if settings.max_change else None
        trained = make_trained(network, how, variant, settings.seed)
    prompt = prompt_ids(network)
    context = source.context - len(prompt)
    rows = load_examples(task, "train", tokenizer, context)
    validation = load_examples(task, "validation", tokenizer, context) if settings.eval_steps else None
    with in_table("tune"):
        require_small_delta(settings, len(rows.rows))
    usage = Usage(work.device, work.rank)
    largest = settings.batch_size * (len(prompt) + max(row.num_tokens for row in rows.rows))
    settings = replace(settings, max_tokens=work.pass_tokens(settings.max_tokens, "tune.max_tokens", largest))
    vocabulary = text_config(network.config).vocab_size

    def report(step: int, values: dict[str, float]) -> None:
        if step == 1 and emulator and not work.rank:
            _warn_of_guessing(values["loss"], vocabulary)
        # All processes have the same losses, but each has its own memory use.
        work.metric(step, **({} if work.rank else values), **usage.read())

    result = train(
        trained,
        rows.rows,
        validation.rows if validation else [],
        settings,
        device=work.device,
        precision=precision,
        parallel=work.parallel if work.num_processes > 1 else "layers",
        pad_id=tokenizer.pad_token_id or 0,
        checkpoint=work.checkpoint(),
        on_metrics=report,
        should_stop=work.stop_requested,
        progress=lambda steps: work.progress(steps, "steps"),
        names=Names("tune.learning_rate" if emulator else "full_tune.learning_rate", "tune.max_tokens"),
    )
    facts = privacy_facts(settings, len(rows.rows), result.num_steps)
    if not work.rank:
        if limit:
            facts["change_before_limit"] = max(limit.changes(result.state).values(), default=0.0)
        write_returned(work.out, how, variant, limit.limited(result.state) if limit else result.state)
    digests = {"train_digest": rows.digest} | ({"validation_digest": validation.digest} if validation else {})
    counts = {"num_rows": len(rows.rows), "num_truncated": rows.num_truncated}
    return as_tuning_summary({**result.summary(), **usage.peak(), **counts, **facts, **digests})


def _warn_of_guessing(loss: float, vocabulary: int) -> None:
    if loss > math.log(vocabulary):
        logger.warning(
            "before tuning, the loss of %.2f nats a token is more than that of guessing, ln %d = %.2f: little of the"
            " model is left in this emulator; keep more blocks (plan.num_kept), or try another plan.share or strategy",
            *(loss, vocabulary, math.log(vocabulary)),
        )


def _network(
    work: Work, emulator: Ref | None, model: ModelSource | None, plan: "Plan", precision: str
) -> "tuple[PreTrainedModel, ModelSource]":
    """Return the network to train, and the source of its tokenizer and context length."""
    from tasks.core.blocks.surgery import with_layout
    from tasks.models.emulators.emulator import load_emulator
    from tasks.models.loading import load_model
    from tasks.models.resolving import resolve_model

    assert (emulator is None) != (model is None), "tune trains an emulator or a model"
    # In bfloat16 training the tuned tensors stay float32: they start from the stored values, not from rounded ones.
    dtype = "auto" if precision == "bfloat16" else precision
    if emulator is not None:
        folder = work.open(emulator)
        return load_emulator(folder, dtype=dtype), resolve_model(str(folder), store=work.store)
    assert model is not None
    return with_layout(load_model(model, "stored" if dtype == "auto" else dtype), plan), model


def _diverged(work: Work, error: DivergedError, seconds: float) -> TuningSummary:
    """Write and return the result of a tuning that diverged and may do so."""
    from tasks.models.tuned_blocks import write_diverged

    if not work.rank:
        write_diverged(work.out, str(error))
    return {"diverged": str(error), "seconds": round(seconds, 3)}
