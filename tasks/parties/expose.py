"""Expose: tune once more with canaries among the rows, and measure how well the tuned blocks give them away.

Nothing of this tuning is kept: canaries are in no block that goes back.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.artifacts.exposure import EXPOSURE_FILE, ExposureSummary
from tasks.artifacts.plan import read_plan
from tasks.core.errors import in_table
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.core.tuning.settings import TrainSettings
from tasks.data.sources import TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from tasks.core.batching import Example
    from tasks.core.tuning.limiting import ChangeLimit
    from tasks.core.tuning.trainable import Trained

ROWS_OF_A_PASS = 64


@stage(packages=("torch", "transformers", "tokenizers", "accelerate", "lm_eval", "peft"), gpu=True)
def expose(
    work: Work,
    task: TaskSource,
    emulator: Ref,
    *,
    settings: TrainSettings,
    precision: str,
    variant: TuningMethod = WHOLE_BLOCKS,
    num_canaries: int,
) -> ExposureSummary:
    """Tune as `tune` does, on the task's rows and on canaries; writes `exposure.json`.

    emulator: its folder has its plan. num_canaries: those among the training rows.

    Raises:
        DivergedError: when the loss or a gradient is not finite.
        InputError: when the plan or the model's family leaves nothing to train.
    """
    from tasks.core.privacy.canaries import NUM_OUTSIDE, measure_exposure
    from tasks.core.tuning.private_steps import privacy_facts
    from tasks.core.tuning.train import train
    from tasks.data.tokenize import load_examples
    from tasks.models.loading import load_tokenizer
    from tasks.models.resolving import resolve_model

    folder = work.open(emulator)
    trained, limit = _trained(folder, settings, precision, variant)
    source = resolve_model(str(folder), store=work.store)
    tokenizer = load_tokenizer(source)
    context = source.context - variant.num_virtual
    rows = load_examples(task, "train", tokenizer, context).rows
    validation = load_examples(task, "validation", tokenizer, context).rows if settings.eval_steps else []
    canaries = _canaries(tokenizer, num_canaries + NUM_OUTSIDE, settings.seed)
    before = _losses(trained, canaries, work.device, precision)
    result = train(
        trained,
        [*rows, *canaries[:num_canaries]],
        validation,
        replace(settings, max_tokens=work.pass_tokens(settings.max_tokens, "tune.max_tokens")),
        device=work.device,
        precision=precision,
        pad_id=tokenizer.pad_token_id or 0,
        checkpoint=work.checkpoint(),
        should_stop=work.stop_requested,
        progress=lambda steps: work.progress(steps, "steps"),
    )
    if limit:
        trained.load(limit.limited(result.state))
    after = _losses(trained, canaries, work.device, precision)
    fell = [first - last for first, last in zip(before, after, strict=True)]
    found = measure_exposure(fell[:num_canaries], fell[num_canaries:])
    private = privacy_facts(settings, len(rows) + num_canaries, result.num_steps)
    summary: ExposureSummary = {
        "true_positives": found.true_positives,
        "area": found.area,
        "bits": found.bits,
        "num_inside": num_canaries,
        "num_outside": NUM_OUTSIDE,
        "num_rows": len(rows),
        "seconds": result.seconds,
    }
    if "dp_epsilon" in private:
        summary["dp_epsilon"] = private["dp_epsilon"]
    EXPOSURE_FILE.write(work.out, summary)
    return summary


def _trained(
    folder: Any, settings: TrainSettings, precision: str, variant: TuningMethod
) -> "tuple[Trained, ChangeLimit | None]":
    """Return the emulator with what the method trains, and the limit of its change where there is one."""
    from tasks.core.blocks.surgery import tuned_state
    from tasks.core.tuning.limiting import ChangeLimit
    from tasks.core.tuning.trainable import make_trained
    from tasks.models.emulators.emulator import load_emulator

    plan = read_plan(folder)
    network = load_emulator(folder, dtype="auto" if precision == "bfloat16" else precision)
    with in_table("tune"):
        limit = ChangeLimit(tuned_state(network, plan), variant, settings.max_change) if settings.max_change else None
        return make_trained(network, plan, variant, settings.seed), limit


def _canaries(tokenizer: Any, count: int, seed: int) -> "list[Example]":
    from tasks.core.privacy.canaries import make_canaries

    special = set(tokenizer.all_special_ids)
    return make_canaries(count, [token for token in range(tokenizer.vocab_size) if token not in special], seed)


def _losses(trained: "Trained", rows: "Sequence[Example]", device: str, precision: str) -> list[float]:
    """Return the loss of each row in nats, by the model as it is now."""
    import torch

    from tasks.core.batching import collate, prepend_ids
    from tasks.core.blocks.devices import EVERY, input_device, place
    from tasks.core.blocks.soft_prompt import prompt_ids
    from tasks.core.tuning.losses import AnswerLoss
    from tasks.core.tuning.precision import make_accelerator, set_formats

    model = trained.model.eval()
    set_formats(trained, precision)
    accelerator = make_accelerator(device, precision)
    place(model, EVERY if device == EVERY else accelerator.device)
    loss, found = AnswerLoss(model), list[float]()
    rows = prepend_ids(prompt_ids(model), rows)
    for start in range(0, len(rows), ROWS_OF_A_PASS):
        batch = collate(rows[start : start + ROWS_OF_A_PASS], 0).to(input_device(model))
        with torch.no_grad(), accelerator.autocast():
            found += loss.by_row(batch)[0].tolist()
    return found
