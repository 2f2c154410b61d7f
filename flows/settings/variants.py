"""The variants of a sweep: named sets of settings that form one axis of its grid."""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from flows.settings.kinds import AllSettings
from tasks.core.errors import InputError

# The axis in a grid, and the table of a sweep's file (`[[variants]]`).
AXIS, TABLE = "variant", "variants"
NAME = "name"


def overrides(variant: dict[str, Any]) -> dict[str, Any]:
    """Return a variant's settings as dotted keys and values, whether it was written with dotted keys or tables."""
    return dict(_flat({key: value for key, value in variant.items() if key != NAME}))


def require_variants(variants: Any, axes: dict[str, Any]) -> None:
    """Check the variants of a sweep.

    Raises:
        InputError: when a variant lacks a unique name, or sets an unknown setting or one that is another axis.
    """
    if not isinstance(variants, list) or not variants:
        raise InputError(f"[[{TABLE}]]: give at least one variant, a table with a {NAME} and what it sets")
    names = []
    for number, variant in enumerate(variants, start=1):
        if not isinstance(variant, dict) or not isinstance(variant.get(NAME), str):
            raise InputError(f"[[{TABLE}]]: variant {number} has no {NAME}; each needs one, which the table shows")
        for key in overrides(variant):
            _require_setting(variant[NAME], key)
            if key in axes:
                raise InputError(
                    f"the variant {variant[NAME]!r} sets {key}, which is an axis of the grid as well; leave it to one"
                )
        names.append(variant[NAME])
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"[[{TABLE}]]: the name {repeated[0]!r} is given twice; each variant needs its own")


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested tables."""
    *tables, name = key.split(".")
    for table in tables:
        # Never change a table in place: several cells may share it.
        values[table] = dict(values.get(table) or {})
        values = values[table]
    values[name] = value


def setting_field(key: str) -> Any:
    """Return the field of the settings that a dotted key names.

    Raises:
        InputError: when there is no such setting; the message lists the choices.
    """
    group: Any = AllSettings
    for part in key.split("."):
        fields = getattr(group, "model_fields", {})
        if part not in fields:
            near = difflib.get_close_matches(part, fields, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            choices = f"choose from: {', '.join(fields)}" if fields else f"{key.rpartition('.')[0]} is a value"
            raise InputError(f"there is no such setting; {meant}{choices}")
        field = fields[part]
        group = field.annotation
    return field


def _flat(values: dict[str, Any], prefix: str = "", group: Any = AllSettings) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        field = getattr(group, "model_fields", {}).get(key)
        kind = field.annotation if field else None
        is_table = isinstance(kind, type) and issubclass(kind, BaseModel)
        if isinstance(value, dict) and is_table:
            yield from _flat(value, f"{prefix}{key}.", kind)
        else:
            yield f"{prefix}{key}", value


def _require_setting(name: str, key: str) -> None:
    try:
        kind = setting_field(key).annotation
    except InputError as error:
        raise InputError(f"the variant {name!r} sets {key}: {error}") from error
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        names = ", ".join(kind.model_fields)
        raise InputError(f"the variant {name!r} sets {key}, which is a table of settings; choose from: {names}")
