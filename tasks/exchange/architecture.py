"""The config of an emulator as data: what a stranger's manifest may say of it, from which a config is made here.

A config of transformers can name code to load, and kernels and files to fetch. Only settings that the family's own
config has are taken, as numbers, truth values, and words without a slash, within bounds; nothing else can be said.
"""

import re
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError, RefusedError
from tasks.exchange.manifest import MAX_BLOCKS, Architecture
from tasks.models.families.known import failed_operations

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Settings that choose code, or say where the model came from; none of them changes the numbers that it computes.
_LEFT_OUT = frozenset({
    "architectures", "attn_implementation", "auto_map", "custom_pipelines", "experts_implementation",
    "name_or_path", "quantization_config", "return_dict", "torchscript", "transformers_version", "model_type",
    "output_attentions", "output_hidden_states", "use_cache", "crash_gguf_types",
    "chunk_size_feed_forward", "id2label", "label2id", "problem_type",
})  # fmt: skip
# A setting of OPT that changes what is computed, in spite of its name.
_KEPT = frozenset({"_remove_final_layer_norm"})
_WORD = re.compile(r"[A-Za-z0-9_.+-]{0,64}")
MAX_DEPTH, MAX_LENGTH = 3, MAX_BLOCKS
# Of settings by which modules are counted: a network of a billion blocks would never be built. Others size tensors.
_MAX_COUNT = 1024
_COUNTS = re.compile(r"(num|n)_?.*(layers?|experts?|heads?|groups|blocks)$")
_MAX_NUMBER = 1 << 31


def describe(config: "PreTrainedConfig") -> Architecture:
    """Return what a manifest says of a config.

    Raises:
        InputError: when a setting of the config cannot be said, so that the emulator would be another network.
    """
    values = {name: value for name, value in config.to_dict().items() if not _is_left_out(name)}
    default = _default(config.model_type)
    said = {name: value for name, value in values.items() if name in default and value != default[name]}
    described = Architecture(family=config.model_type, config=said)
    try:
        made = _config_values(described)
    except RefusedError as error:
        raise InputError(f"this model's config cannot be described to another party: {error}") from None
    for name, value in values.items():
        if name in default and made.get(name, default[name]) != value:
            raise InputError(f"this model's config cannot be described to another party: {name} = {value!r}")
    return described


def config_values(described: Architecture) -> dict[str, Any]:
    """Return the content of a `config.json` for what a manifest says.

    Raises:
        RefusedError: when the family is unknown, or a setting is not one of its config, or out of bounds.
    """
    if failed_operations(described.family) is None:
        raise RefusedError(f"architecture: family {described.family!r} is not one that is known to be exact here")
    return _config_values(described)


def _config_values(described: Architecture) -> dict[str, Any]:
    default = _default(described.family)
    for name, value in described.config.items():
        if name not in default or _is_left_out(name):
            raise RefusedError(f"architecture: {ascii(name)[:66]} is not a setting of family {described.family}")
        _require_allowed(name, value, 0)
    return {"model_type": described.family, **described.config}


def _default(family: str) -> dict[str, Any]:
    """Return the settings that a family's config has, with their defaults."""
    from transformers import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        raise RefusedError(f"architecture: transformers does not know the family {family!r}")
    found: dict[str, Any] = CONFIG_MAPPING[family]().to_dict()
    return found


def _is_left_out(name: str) -> bool:
    return (name.startswith("_") and name not in _KEPT) or name in _LEFT_OUT


def _require_allowed(name: str, value: Any, depth: int) -> None:
    """Check one setting, or a part of one."""
    if isinstance(value, dict | list) and (depth == MAX_DEPTH or len(value) > MAX_LENGTH):
        raise RefusedError(f"architecture: {name} is nested deeper or longer than a config needs")
    if isinstance(value, dict):
        for key, part in value.items():
            if not _WORD.fullmatch(key) or _is_left_out(key):
                raise RefusedError(f"architecture: {name} has the unexpected part {ascii(key)[:66]}")
            _require_allowed(f"{name}.{key}", part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            _require_allowed(name, part, depth + 1)
    elif isinstance(value, str) and not _WORD.fullmatch(value):
        raise RefusedError(f"architecture: {name} is text that no config needs")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _require_number(name, value)


def _require_number(name: str, value: float) -> None:
    limit = _MAX_COUNT if _COUNTS.fullmatch(name.rpartition(".")[2]) else _MAX_NUMBER
    if not -_MAX_NUMBER <= value <= limit:
        raise RefusedError(f"architecture: {name} is out of range (at most {limit})")
