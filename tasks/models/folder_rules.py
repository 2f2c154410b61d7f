"""Refuse model folders that cannot be used as they are, by their config and their file names.

Nothing here needs torch: it takes milliseconds, before anything is fetched, computed or loaded.
"""

import logging
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.models.tensor_files import INDEX_FILE, SINGLE_FILE, StoredTensor, weight_files

logger = logging.getLogger(__name__)

ADAPTERS = ("adapter_config.json", "adapter_model*.safetensors", "adapter_model*.bin")
# Whole models in other formats beside the one that is loaded, whose weights may differ.
OTHER_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth", "*.gguf")
# Where configs say how weights were quantised, and the files in which tools said so before configs could.
QUANTISED_KEYS = ("quantization_config", "compression_config")
QUANTISED_FILES = ("quantize_config.json", "quant_config.json")
# Names of quantised weights in their files: GPTQ and AWQ, compressed-tensors, fp8, bitsandbytes, MXFP4.
QUANTISED_TENSORS = re.compile(
    r".*[._](qweight|qzeros|weight_packed|weight_scale|weight_scale_inv|SCB|absmax|quant_map|quant_state\..*|proj_blocks)"
)
COMPUTABLE = ("F64", "F32", "F16", "BF16")

# Lists with an entry for each block, and lists of the numbers of some blocks.
PER_BLOCK = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "no_rope_layers",
    "attention_layers",
    "attn_type_list",
    "activation_sparsity_pattern",
    "hybrid_layer_pattern",
    "moe_layer_freq",
    "block_configs",
)
BLOCK_NUMBERS = ("mlp_only_layers", "cross_attention_layers", "attn_layer_indices", "hybrid_layer_ids", "moe_layers")
# An error does not write out a longer list.
LONGEST_SHOWN = 12


def require_no_adapter(folder: Path) -> None:
    """Refuse a folder with an adapter beside the model, because it depends on the caller whether transformers loads it.

    Raises:
        InputError: when there is one; names the files.
    """
    found = sorted({file.name for pattern in ADAPTERS for file in folder.glob(pattern)})
    if not found:
        return
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds an adapter (LoRA or similar), no model: merge it into its model first")
    raise InputError(
        f"{folder} holds a whole model and an adapter beside it ({', '.join(found)}), so it is open which of the two is"
        " meant: merge the adapter into the model and save that (merge_and_unload in peft), or give a folder of the"
        " model without these files"
    )


def require_usable_config(config: Mapping[str, Any], num_blocks: int, folder: Path) -> None:
    """Refuse a config of a quantised model, of weights under a custom file name, or with lists for another depth.

    Raises:
        InputError: when the config is one of these; names the setting or file, and what to do.
    """
    _require_not_quantised(config, folder)
    named = config.get("transformers_weights")
    if named not in (None, SINGLE_FILE, INDEX_FILE):
        raise InputError(
            f"{folder / 'config.json'}: transformers_weights = {named!r}; name the file {SINGLE_FILE}, and take the"
            " setting out"
        )
    inner = config.get("text_config")
    for part in [config, inner] if isinstance(inner, dict) else [config]:
        _require_lists_of(part, num_blocks, folder)


def require_computable(stored: Mapping[str, StoredTensor], folder: Path) -> None:
    """Refuse quantised weights that no config declares.

    Raises:
        InputError: for the first tensor that is quantised or not in a floating-point format.
    """
    for name, tensor in stored.items():
        is_packed = name.endswith(".weight") and len(tensor.shape) > 1 and tensor.dtype not in COMPUTABLE
        if is_packed or QUANTISED_TENSORS.fullmatch(name):
            raise InputError(_quantised(folder, f"its tensor {name} is {tensor.dtype}", {}))


def tell_unused(folder: Path) -> None:
    """Log once which other whole weights in the folder are not used."""
    used = set(weight_files(folder))
    others = sorted({file.name for pattern in OTHER_WEIGHTS for file in folder.glob(pattern)} - used)
    if others:
        main = SINGLE_FILE if SINGLE_FILE in used else f"the files that {INDEX_FILE} names"
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        say(f"{folder}: the weights are those of {main}; {', '.join(others[:3])}{more} beside them: not used")


@cache
def say(message: str) -> None:
    """Log a decision about a folder, once per process, however often the folder is resolved."""
    logger.warning("%s", message)


def _require_not_quantised(config: Mapping[str, Any], folder: Path) -> None:
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for key in QUANTISED_KEYS:
            if part.get(key):
                raise InputError(_quantised(folder, _method(part[key]), config))
    for name in QUANTISED_FILES:
        if (folder / name).is_file():
            raise InputError(_quantised(folder, f"it has a {name}", config))


def _method(settings: Any) -> str:
    """Describe how a model was quantised, from its config."""
    if not isinstance(settings, dict):
        return "its config has a quantization_config"
    packed = "bitsandbytes" if settings.get("load_in_4bit") or settings.get("load_in_8bit") else "method not named"
    method = str(settings.get("quant_method") or packed)
    return f"{method}, {settings['bits']} bits" if isinstance(settings.get("bits"), int) else method


def _quantised(folder: Path, how: str, config: Mapping[str, Any]) -> str:
    origin = str(config.get("_name_or_path") or "")
    known = f", such as {origin}, which its config names" if re.fullmatch(r"[\w.-]+/[\w.-]+", origin) else ""
    return (
        f"{folder} is quantised ({how}): its weights cannot be tuned, nor can tuned blocks be put into it. Give the"
        f" model before it was quantised{known}"
    )


def _require_lists_of(config: Mapping[str, Any], num_blocks: int, folder: Path) -> None:
    place = folder / "config.json"
    for name in PER_BLOCK:
        value = config.get(name)
        if isinstance(value, list) and len(value) != num_blocks:
            raise InputError(
                f"{place}: {name} has {len(value)} entries, but the model has {num_blocks} blocks. Write one entry for"
                f" each block that is left{_proposal(name, value, num_blocks)}"
            )
    for name in BLOCK_NUMBERS:
        value = config.get(name)
        beyond = [n for n in value if isinstance(n, int) and n >= num_blocks] if isinstance(value, list) else []
        if beyond:
            raise InputError(
                f"{place}: {name} names block {beyond[0]}, but the model has blocks 0 to {num_blocks - 1}: write the"
                " numbers of the blocks that are left"
            )
    if (length := _coded_length(config.get("attention_types"))) not in (None, num_blocks):
        raise InputError(
            f"{place}: attention_types describes {length} blocks, but the model has {num_blocks}: correct the counts"
        )


def _proposal(name: str, value: list[Any], num_blocks: int) -> str:
    """Propose a list where it is unambiguous: all entries are equal, or the removed blocks can only be the last."""
    if len(value) < num_blocks or not value:
        return ""
    if all(entry == value[0] for entry in value):
        return f": {num_blocks} times {value[0]!r}"
    cut = value[:num_blocks]
    shown = f"{cut}" if num_blocks <= LONGEST_SHOWN else f"its first {num_blocks} entries"
    return f"; if the last {len(value) - num_blocks} blocks were removed: {shown}"


def _coded_length(value: Any) -> int | None:
    """Return how many blocks GPT-Neo's run-length encoded list describes, such as [[["global", "local"], 12]]."""
    if not isinstance(value, list):
        return None
    try:
        return sum(len(kinds) * count for kinds, count in value)
    except (TypeError, ValueError):
        return None  # not this encoding
