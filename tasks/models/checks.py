"""Check without reading a weight that transformers can build a model and fill it from its files.

Every tensor of the files is described to transformers by its shape alone (a tensor on the meta device), so that its own
renaming and merging of names decides what fits what: a model of any size takes seconds and no memory.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.models.folder import GENERATION_FILE, load_config, quiet_transformers
from tasks.models.folder_tensors import tensors_of
from tasks.models.folder_view import only
from tasks.models.tensor_sources import DTYPES
from tasks.store.boundary import first_words, translated

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)

# Parts of tensor names in the files of a model that was saved before its LoRA factors were merged.
UNMERGED = (".base_layer.", ".lora_A.", ".lora_B.")


def check_model(folder: Path, called: str) -> None:
    """Check that transformers can build the model and that its files match its config.

    called: the name that the user gave.

    Raises:
        InputError: when it cannot, or a weight is missing or has another shape; names the first one, both shapes, and
            what to do.
    """
    quiet_transformers()
    config = load_config(folder)
    _check_generation(folder, called)
    if (report := _dry_load(folder, config, called)) is None:
        return
    if wrong := sorted((name, tuple(ours), tuple(theirs)) for name, ours, theirs in report["mismatched_keys"]):
        name, ours, theirs = wrong[0]
        raise InputError(
            f"{called}: {name} is {_shown(ours)} in the model's files, but {_shown(theirs)} by its config.json"
            f"{_more(len(wrong))}: config and weights are of different models, or one of them was changed alone"
        )
    if missing := sorted(report["missing_keys"]):
        advice = ""
        if any(part in name for name in report["unexpected_keys"] for part in UNMERGED):
            advice = ". The files hold LoRA factors: merge them into the model first (merge_and_unload in peft)"
        raise InputError(
            f"{called}: {len(missing)} weights of the model are not in its files, first {missing[0]}{advice}"
        )


def _dry_load(folder: Path, config: "PreTrainedConfig", called: str) -> dict[str, Any] | None:
    """Return transformers' report of loading shapes; None for a family that can be built but not loaded in this way."""
    import torch
    from transformers import AutoModelForCausalLM

    from tasks.core.blocks.locate_blocks import skeleton

    with translated(f"{called}: transformers cannot build this model from its config.json"):
        model_class: Any = type(skeleton(config))
    formats = {theirs: getattr(torch, ours) for ours, theirs in DTYPES.items()}
    shapes = {
        name: torch.empty(tensor.shape, dtype=formats.get(tensor.dtype, torch.float32), device="meta")
        for name, tensor in tensors_of(folder).items()
    }
    try:
        # AutoModelForCausalLM takes no state without a folder, but the class does. It needs its own part of the config.
        suited = AutoModelForCausalLM._prepare_config_for_auto_class(config)
        if getattr(model_class, "config_class", None) is type(config.get_text_config(decoder=True)):
            suited = config.get_text_config(decoder=True)
        _, report = model_class.from_pretrained(
            None,
            config=suited,
            state_dict=shapes,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:
        # The model can be built. Errors that need weights to show are found when these are loaded.
        logger.debug("%s: not loaded without weights: %s", called, first_words(error))
        return None
    return dict(report)


def _check_generation(folder: Path, called: str) -> None:
    """Check that transformers can read the generation settings when it loads the model.

    Raises:
        InputError: when it cannot.
    """
    from transformers import GenerationConfig

    what = f"{called}: transformers cannot read {GENERATION_FILE}"
    with translated(what), only(folder, (GENERATION_FILE,)) as place:
        if (place / GENERATION_FILE).exists():
            GenerationConfig.from_pretrained(place, local_files_only=True)


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _more(count: int) -> str:
    return f" (and {count - 1} more weights)" if count > 1 else ""
