"""Grids of settings: a list anywhere in the settings is an axis, and each combination is a cell."""

import itertools
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from flows.settings import variants
from flows.settings.kinds import AllSettings, validated
from flows.settings.run import Kind
from tasks.core.errors import CrashError, InputError

MAX_CELLS = 10_000
# As a flow's parameter: dotted key to the list of its values.
Grid = dict[str, Annotated[list[Any], Field(min_length=1)]]


@contextmanager
def named_cell(name: str | None) -> Iterator[None]:
    """Add the cell's name to our errors raised within the context; None where there is only one cell."""
    try:
        yield
    except CrashError as error:
        if name is None:
            raise
        raise type(error)(f"{name}: {error}") from error


def split_axes(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the settings with the first value of every list, and the axes: dotted key to its values.

    A setting whose value is a list (strategy, tune.seeds, ...) is an axis when it holds lists. The tables `variants`
    are the axis `variant`.
    """
    axes: dict[str, list[Any]] = {}
    if variants.TABLE in values:
        axes[variants.AXIS] = values[variants.TABLE]
        values = {name: value for name, value in values.items() if name != variants.TABLE}
    return _split(values, AllSettings, "", axes), axes


def make_cells(base: Kind, axes: dict[str, list[Any]]) -> list[tuple[dict[str, Any], Kind]]:
    """Return every combination, the last axis fastest: the axes' values, and the whole settings, of the base's kind.

    Raises:
        InputError: when an axis or a variant is invalid, there are too many cells, or a cell's settings are invalid
            (the message names it).
    """
    for key, choices in axes.items():
        if key == variants.AXIS:
            variants.require_variants(choices, axes)
        else:
            _require_axis(key, choices)
    count = 1
    for choices in axes.values():
        count *= len(choices)
    if count > MAX_CELLS:
        raise InputError(f"the grid has {count} cells; at most {MAX_CELLS} make a sweep, split it")
    values = base.model_dump(mode="json", exclude_unset=True)
    combinations = (dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values()))
    return [_cell(values, chosen, type(base)) for chosen in combinations]


def describe_values(cell: dict[str, Any]) -> str:
    """Return a cell as text: `tune.learning_rate=0.0001, plan.num_kept=6`."""
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
    try:
        variants.setting_field(key)
    except InputError as error:
        raise InputError(f"the grid has an axis {key}: {error}") from error
    if not isinstance(choices, list) or not choices:
        raise InputError(f"the axis {key} of the grid has no values; give a list of at least one")
    if len({repr(choice) for choice in choices}) < len(choices):
        raise InputError(f"the axis {key} of the grid names a value twice: {choices}")


def _cell(values: dict[str, Any], chosen: dict[str, Any], kind: type[Kind]) -> tuple[dict[str, Any], Kind]:
    whole, named = dict(values), dict(chosen)
    if variant := chosen.get(variants.AXIS):
        named[variants.AXIS] = variant[variants.NAME]
    for key, value in {**chosen, **variants.overrides(variant or {})}.items():
        if key != variants.AXIS:
            variants.put(whole, key, value)
    chosen = named
    try:
        return chosen, validated(whole, kind)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        message = problem["msg"].removeprefix("Value error, ")
        raise InputError(f"the cell {describe_values(chosen)}: {where}: {message}") from error
