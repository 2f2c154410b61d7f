"""Distill: train an emulator's frozen blocks on generic text to replace the blocks between the tuned ones."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts.emulator import DistilledSummary
from tasks.artifacts.plan import read_plan
from tasks.core.tuning.settings import Elevation, TrainSettings
from tasks.data.sources import TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from tasks.core.tuning.distilling import FrozenBlocks


@stage(packages=("torch", "transformers", "tokenizers", "accelerate"), gpu=True)
def distill(
    work: Work,
    emulator: Ref,
    teacher: ModelSource,
    text: TaskSource,
    *,
    settings: TrainSettings,
    block: int,
    hidden_weight: float,
    precision: str,
    elevation: Elevation | None = None,
) -> dict:
    """Write an emulator folder like the given one with trained frozen blocks (Offsite-Tuning, section 3.3).

    text: documents one after another, in windows of `block` tokens, or of the model's context if that is shorter.
    elevation: keeps the loss of the emulator high (LLEOT). Zeros of a pruned emulator stay; the metrics have all parts
    of the loss.

    Raises:
        InputError: when the plan has no frozen block.
        DivergedError: when a number is not finite.
    """
    from tasks.engine.ranks import process_group, run_ranks

    arguments: dict[str, Any] = {"emulator": emulator, "teacher": teacher, "text": text, "settings": settings}
    arguments |= {"block": block, "hidden_weight": hidden_weight, "precision": precision}
    arguments["elevation"] = elevation or Elevation()
    if work.num_processes > 1 and work.rank is None:
        return run_ranks(work, (__name__, "distill"), arguments)
    with process_group(work):
        return _distill(work, **arguments)


def _distill(
    work: Work,
    emulator: Ref,
    teacher: ModelSource,
    text: TaskSource,
    settings: TrainSettings,
    block: int,
    hidden_weight: float,
    precision: str,
    elevation: Elevation,
) -> dict:
    """Run the stage in this process, alone or as one of several ranks, of which the first writes the result."""
    from tasks.core.tuning.failures import Names
    from tasks.core.tuning.train import train
    from tasks.data.windows import load_windows
    from tasks.engine.usage import Usage
    from tasks.models.emulators.distilled_emulator import write_distilled
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.loading import load_tokenizer
    from tasks.models.resolving import resolve_model
    from tasks.models.tensor_files import weight_bytes

    folder = work.open(emulator)
    source = resolve_model(str(folder), store=work.store)
    trained = _frozen(work, folder, teacher, hidden_weight, precision, elevation)
    tokenizer = load_tokenizer(source)
    length = min(block, source.context - elevation.prompt_tokens)
    rows = load_windows(text, "train", tokenizer, length)
    usage = Usage(work.device, work.rank)

    def on_metrics(step: int, values: dict[str, float]) -> None:
        work.metric(step, **({} if work.rank else values | trained.parts.take()), **usage.read())

    largest = settings.batch_size * (length + elevation.prompt_tokens)
    settings = replace(settings, max_tokens=work.pass_tokens(settings.max_tokens, "distill.max_tokens", largest))
    result = train(
        trained,
        rows,
        load_windows(text, "validation", tokenizer, length) if settings.eval_steps else [],
        settings,
        device=work.device,
        precision=precision,
        # Every process has the whole teacher, so that sharding the emulator would save little.
        parallel="data" if work.num_processes > 1 else "layers",
        pad_id=tokenizer.pad_token_id or 0,
        checkpoint=work.checkpoint(),
        on_metrics=on_metrics,
        should_stop=work.stop_requested,
        progress=lambda steps: work.progress(steps, "steps"),
        names=Names("distill.learning_rate", "distill.max_tokens"),
    )
    if not work.rank:
        write_distilled(folder, result.state, work.out)
    facts: DistilledSummary = {
        "num_bytes": weight_bytes(work.out),
        "num_parameters": count_parameters(folder),
        "num_trained": result.num_parameters,
        "num_rows": rows.num_rows,
        "num_windows": len(rows),
    }
    return {**result.summary(), **facts}


def _frozen(
    work: Work, folder: Path, teacher: ModelSource, hidden_weight: float, precision: str, elevation: Elevation
) -> "FrozenBlocks":
    """Load the emulator's frozen blocks and their teacher.

    Raises:
        InputError: when training would undo the emulator's compression, or the family cannot be distilled.
    """
    from tasks.core.blocks.devices import EVERY
    from tasks.core.tuning.distilling import FrozenBlocks
    from tasks.models.emulators.distilled_emulator import keeps_zeros, require_places
    from tasks.models.emulators.emulator import load_emulator
    from tasks.models.loading import load_model

    narrow = precision == "bfloat16"
    # In bfloat16 training the trained tensors stay float32: they start from the stored values, not from rounded ones.
    network = load_emulator(folder, dtype="auto" if narrow else precision)
    trained = FrozenBlocks(
        network,
        read_plan(folder, "emulator"),
        load_model(teacher, "stored" if narrow else precision),
        hidden_weight,
        precision=precision,
        spread=work.device == EVERY,
        keep_zeros=keeps_zeros(folder),
        elevation=elevation,
    )
    require_places(folder, trained.state())
    return trained
