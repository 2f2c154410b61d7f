"""Variants of a sweep: named sets of overrides of settings, which together form the axis `variant`."""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from flows.settings import Settings
from tasks.core.errors import InputError

AXIS = "variant"
# What the tables are called in a TOML file.
TABLE = "variants"


def variant_overrides(variant: dict[str, Any]) -> dict[str, Any]:
    """Dotted key to value, of what is written dotted (`"plan.share"`) or nested (`{"plan": {"share": ...}}`)."""
    return dict(_flat({key: value for key, value in variant.items() if key != "name"}))


def require_variants(variants: Any, axes: dict[str, Any]) -> None:
    """Raise InputError unless each has a name of its own and overrides settings that exist and are no other axis."""
    if not isinstance(variants, list) or not variants:
        raise InputError("variants: give at least one table [[variants]] with a name and what it changes")
    names: set[str] = set()
    for number, variant in enumerate(variants, start=1):
        name = variant.get("name") if isinstance(variant, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise InputError(f'variant {number} of {len(variants)} has no name; add name = "..." to it')
        if name in names:
            raise InputError(f"two variants are called {name!r}; give each a name of its own")
        names.add(name)
        for key in variant_overrides(variant):
            require_setting(key, f"the variant {name!r} changes {key}")
            if key in axes:
                raise InputError(f"the variant {name!r} changes {key}, which is an axis of the grid; leave it to one")


def require_setting(key: str, what: str) -> None:
    """Raise InputError, beginning with `what`, unless the dotted key is a setting and no table of settings."""
    group: Any = Settings
    for part in key.split("."):
        fields = getattr(group, "model_fields", {})
        if part not in fields:
            near = difflib.get_close_matches(part, list(fields), n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            choices = ", ".join(fields) if fields else f"nothing, {key.rpartition('.')[0]} is a value"
            raise InputError(f"{what}, but there is no such setting; {meant}choose from: {choices}")
        group = fields[part].annotation
    if _is_table(group):
        raise InputError(f"{what}, which is a table of settings; choose from: {', '.join(group.model_fields)}")


def shown_values(axis: str, values: list[Any]) -> str:
    """The values of an axis in words; of variants their names."""
    return str([value["name"] for value in values] if axis == AXIS else values)


def put(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The nested values with the setting of a dotted key changed; what is given stays as it is."""
    first, _, rest = key.partition(".")
    return {**values, first: put(values.get(first) or {}, rest, value) if rest else value}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        # Of a setting that is a table by itself, the table is the value.
        if isinstance(value, dict) and _is_table(_kind(prefix + key)):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _kind(key: str) -> Any:
    kind: Any = Settings
    for part in key.split("."):
        field = getattr(kind, "model_fields", {}).get(part)
        kind = field.annotation if field else None
    return kind


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
