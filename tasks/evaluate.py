"""Score one variant of a model: as it is, with tuned blocks plugged in, or its emulator before or after tuning."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.store.artifacts import Ref
from tasks.store.models import ModelSource
from tasks.store.stage import MODEL_CODE, TEXT_CODE, stage
from tasks.store.task_sources import TaskSource
from tasks.store.work import Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCORES_FILE = "scores.json"
SCORING_CODE = (*TEXT_CODE, *MODEL_CODE, "tasks.store.scoring", "tasks.store.language_model", "tasks.store.returned")


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval", "datasets"), code=SCORING_CODE, gpu=True)
def evaluate(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    emulator: Ref | None = None,
    tuned: Ref | None = None,
    *,
    precision: str = "float32",
    max_tokens: int = 8192,
) -> dict[str, Any]:
    """Zero-shot scores on the task's scored split, in `scores.json`.

    emulator: score it instead of the full model. tuned: with these blocks, in the full model or in the emulator.
    precision: number format of computing; max_tokens: padded tokens in one forward pass.
    """
    from tasks.core.scoring import Scores
    from tasks.store.models import load_tokenizer
    from tasks.store.scoring import score

    variant = load_variant(work, model, emulator, tuned, precision)
    scores: Scores = score(
        variant,
        load_tokenizer(model),
        task,
        max_length=model.context,
        max_tokens=max_tokens,
        progress=work.progress,
    )
    (work.out / SCORES_FILE).write_text(json.dumps(vars(scores), indent=2) + "\n")
    work.metric(None, **{scores.metric: scores.value})
    return {
        "metric": scores.metric,
        "value": scores.value,
        "stderr": scores.stderr,
        "num_rows": scores.num_rows,
        "higher_is_better": scores.higher_is_better,
        **{name: value for name, value in scores.metrics.items() if name != scores.metric},
    }


def load_variant(
    work: Work, model: ModelSource, emulator: Ref | None, tuned: Ref | None, precision: str
) -> "PreTrainedModel":
    """The model that is scored, in evaluation mode. InputError if tuned blocks do not fit what they are put into."""
    from tasks.core.devices import place
    from tasks.store.model_folder import quiet_transformers
    from tasks.store.models import load_model
    from tasks.store.weights import load_emulator

    quiet_transformers()
    variant = load_model(model, precision) if emulator is None else load_emulator(work.open(emulator), dtype=precision)
    if tuned is not None:
        variant = _with_tuned(variant, work.open(tuned), model, in_emulator=emulator is not None)
    return place(variant, work.device).eval()


def _with_tuned(variant: "PreTrainedModel", folder: Path, model: ModelSource, in_emulator: bool) -> "PreTrainedModel":
    from tasks.core.plugging import admit, load_parts, plug_in_parts
    from tasks.store.returned import read_returned

    returned = read_returned(folder)
    plan, how = returned.plan, returned.variant
    if plan.num_blocks != model.num_blocks:
        raise InputError(
            f"the tuned blocks are of a model with {plan.num_blocks} blocks, {model.name} has {model.num_blocks}"
        )
    if not in_emulator:
        return plug_in_parts(variant, admit(returned.tuned, variant, plan, how), plan, how.admitted)
    load_parts(variant, returned.tuned | returned.kept, plan, how)
    return variant
