"""Keys of results: they cover all that a result depends on, and nothing else.

A key is the SHA-256 of canonical JSON of: the stage's name, the code that computes it, its arguments (inputs by the
digest of their content), and the versions of the packages that it uses. Never a path, never a time.
"""

import enum
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.core.errors import InputError
from tasks.store.code_digest import code_digest


def stage_key(
    stage: str, module: str, arguments: dict[str, Any], packages: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Return the key (64 hexadecimal digits) and its inputs.

    Raises:
        InputError: when the content of an argument's type cannot be identified.
    """
    inputs = {
        "stage": stage,
        "code": code_digest(module),
        "arguments": {name: canonical(value, name) for name, value in sorted(arguments.items())},
        "packages": {name: package_version(name) for name in sorted(packages)},
    }
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest(), inputs


def canonical_json(value: Any) -> str:
    """Return JSON text that is the same for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def canonical(value: Any, where: str = "value") -> Any:
    """Return the value as plain JSON that contains all that identifies it.

    Raises:
        InputError: when a type is unknown; names `where`.
    """
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        return _finite(value, where)
    if isinstance(value, list | tuple):
        return [canonical(part, f"{where}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, dict):
        return {_text_key(key, where): canonical(part, f"{where}.{key}") for key, part in value.items()}
    return _canonical_object(value, where)


@cache
def package_version(name: str) -> str:
    """Return the installed version of a distribution, or "absent"."""
    try:
        # A local version label (+cu128) marks another build of the same source.
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "absent"


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"{where} = {value}: only finite numbers can be part of a key")
    return value


def _text_key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise InputError(f"{where} has the key {key!r} of type {type(key).__name__}; use text keys")
    return key


def _canonical_object(value: Any, where: str) -> Any:
    if hasattr(value, "cache_view"):
        return canonical(value.cache_view(), where)
    if isinstance(value, enum.Enum):
        return canonical(value.value, where)
    if isinstance(value, set | frozenset):
        return sorted((canonical(part, where) for part in value), key=canonical_json)
    if isinstance(value, BaseModel):
        return {name: canonical(getattr(value, name), f"{where}.{name}") for name in type(value).model_fields}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: canonical(getattr(value, field.name), f"{where}.{field.name}") for field in fields(value)}
    why = "a path never identifies content" if isinstance(value, Path) else "its content cannot be identified"
    raise InputError(f"{where} is a {type(value).__name__}: {why}; pass plain values or a reference to an artifact")
