"""The config of an emulator as data: what a stranger's manifest may say of it, from which a config is made here.

A config of transformers can name code to load, and kernels and files to fetch. Only settings that the family's own
config has are taken, as numbers, truth values, and words without a slash, within bounds; nothing else can be said.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError, RefusedError
from tasks.exchange.manifest import MAX_BLOCKS, MAX_TENSORS, Architecture
from tasks.models.families.known import failed_operations

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)

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
    """Return what a manifest says of a config: every setting that its family has, also those with default values.

    Raises:
        InputError: when the config that is made from it differs, so that the emulator would be another network.
    """
    values = json.loads(json.dumps({name: each for name, each in config.to_dict().items() if not _is_left_out(name)}))
    known = _default(config.model_type)
    if others := sorted(name for name, value in values.items() if name not in known and value is not None):
        logger.warning("not told to the other party, since %s has no such settings: %s", config.model_type, others)
    described = Architecture(family=config.model_type, config={name: values[name] for name in values if name in known})
    what = f"{config.name_or_path}: this model's config cannot be described to another party"
    try:
        made = made_config(described).to_dict()
    except RefusedError as error:
        raise InputError(f"{what}: {error}") from None
    again = json.loads(json.dumps({name: made.get(name) for name in described.config}))
    if different := sorted(name for name, value in described.config.items() if again[name] != value):
        raise InputError(
            f"{what}: {different[0]} is {values[different[0]]!r}, and would become {again[different[0]]!r}"
        )
    return described


def made_config(described: Architecture) -> "PreTrainedConfig":
    """Make the config that a manifest describes.

    Raises:
        RefusedError: as `config_values`, or when transformers does not accept the settings.
    """
    from transformers import CONFIG_MAPPING

    values = _config_values(described)
    try:
        made: PreTrainedConfig = CONFIG_MAPPING[values.pop("model_type")](**values)
    except Exception as error:
        raise RefusedError(f"architecture: transformers does not accept it ({type(error).__name__})") from None
    return made


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
    counted = [max([1, *_counts(described.config, kind)]) for kind in ("layers", "experts")]
    if prod(counted) > MAX_TENSORS:
        raise RefusedError(f"architecture: {' x '.join(map(str, counted))} modules are more than any emulator has")
    return {"model_type": described.family, **described.config}


def _default(family: str) -> dict[str, Any]:
    """Return the settings that a family's config has, with their defaults."""
    from transformers import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        raise RefusedError(f"architecture: transformers does not know the family {family!r}")
    found: dict[str, Any] = CONFIG_MAPPING[family]().to_dict()
    return found


def _counts(values: Mapping[str, Any], kind: str) -> Iterator[int]:
    """Yield the settings that count modules of a kind."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _counts(value, kind)
        elif type(value) is int and kind in name and _COUNTS.fullmatch(name):
            yield value


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
