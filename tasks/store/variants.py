"""One variant of a model: as it is, with tuned blocks plugged in, or its emulator before or after tuning."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.store.artifacts import Ref
from tasks.store.models import ModelSource
from tasks.store.work import Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TUNED_FILE = "tuned.safetensors"
PLAN_FILE = "plan.json"


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
    from safetensors.torch import load_file

    from tasks.core.blocks import load_tuned, plug_in
    from tasks.core.plan import Plan

    plan, state = Plan.from_json((folder / PLAN_FILE).read_text()), load_file(folder / TUNED_FILE)
    if plan.num_blocks != model.num_blocks:
        raise InputError(
            f"the tuned blocks are of a model with {plan.num_blocks} blocks, {model.name} has {model.num_blocks}"
        )
    if not in_emulator:
        return plug_in(variant, state, plan)
    load_tuned(variant, state, plan)
    return variant
