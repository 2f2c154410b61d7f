"""A list anywhere in the settings makes a grid, and so do variants: its axes, and the settings of every cell."""

import itertools
import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from flows.settings import Settings
from flows.variants import AXIS, TABLE, put, require_setting, require_variants, variant_overrides
from tasks.core.errors import InputError

MAX_CELLS = 10_000


def split_axes(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Settings with the first value of every list, and the axes: dotted key to its values.

    A setting that is a list by itself (strategy, tune.seeds, ...) is an axis when it holds lists. The tables
    `variants` are the first axis; what they change is not part of the settings. InputError for variants that cannot be.
    """
    axes: dict[str, list[Any]] = {AXIS: values[TABLE]} if TABLE in values else {}
    settings = {name: value for name, value in values.items() if name != TABLE}
    base = _split(settings, Settings, "", axes)
    if TABLE in values:
        require_variants(values[TABLE], axes)
    return base, axes


def make_cells(base: Settings, axes: dict[str, list[Any]]) -> list[tuple[dict[str, Any], Settings]]:
    """Every combination in the order of the axes, the last one fastest: the axes' values, and the whole settings.

    Of a variant the value is its name. Raises InputError that names the cell whose settings cannot be.
    """
    for key, choices in axes.items():
        if key == AXIS:
            require_variants(choices, axes)
        else:
            _require_axis(key, choices)
    count = 1
    for choices in axes.values():
        count *= len(choices)
    if count > MAX_CELLS:
        raise InputError(f"the grid has {count} cells; at most {MAX_CELLS} make a sweep, split it")
    values = base.model_dump(mode="json", exclude_unset=True)
    return [_cell(values, dict(zip(axes, chosen, strict=True))) for chosen in itertools.product(*axes.values())]


def shown(cell: dict[str, Any]) -> str:
    """A cell in words: `tune.learning_rate=0.0001, plan.num_kept=6`."""
    return ", ".join(f"{key}={value}" for key, value in cell.items()) or "the only one"


def _split(values: dict[str, Any], group: type[BaseModel], prefix: str, axes: dict[str, list[Any]]) -> dict[str, Any]:
    base = {}
    for name, value in values.items():
        field = group.model_fields.get(name)
        kind = field.annotation if field else None
        if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
            base[name] = _split(value, kind, f"{prefix}{name}.", axes)
        elif _is_axis(value, kind):
            axes[prefix + name] = value
            base[name] = value[0]
        else:
            base[name] = value
    return base


def _is_axis(value: Any, kind: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(part, list) for part in value) if _takes_lists(kind) else True


def _takes_lists(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(_takes_lists(part) for part in typing.get_args(kind))
    return origin is tuple or kind is tuple


def _require_axis(key: str, choices: Any) -> None:
    require_setting(key, f"the grid has an axis {key}")
    if not isinstance(choices, list) or not choices:
        raise InputError(f"the axis {key} of the grid has no values; give a list of at least one")
    if len({repr(choice) for choice in choices}) < len(choices):
        raise InputError(f"the axis {key} of the grid names a value twice: {choices}")


def _cell(values: dict[str, Any], chosen: dict[str, Any]) -> tuple[dict[str, Any], Settings]:
    changes = {key: value for key, value in chosen.items() if key != AXIS}
    if variant := chosen.get(AXIS):
        changes |= variant_overrides(variant)
        chosen = {**chosen, AXIS: variant["name"]}
    for key, value in changes.items():
        values = put(values, key, value)
    try:
        return chosen, Settings.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
        raise InputError(f"the cell {shown(chosen)}: {where}: {message}{given}") from error
