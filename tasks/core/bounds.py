"""Bounds and choices of settings: declared in the type of a dataclass field, checked when the settings are made.

    batch_size: Annotated[int, Bounds(gt=0)] = 32
    schedule: Literal["cosine", "linear"] = "cosine"

torch is not imported, so that settings load without it.
"""

import types
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tasks.core.errors import SettingError


@dataclass(frozen=True)
class Bounds:
    """Range of a number: larger than gt, at least ge, less than lt, at most le; NaN lies in no range."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __contains__(self, value: float) -> bool:
        above = (self.gt is None or value > self.gt) and (self.ge is None or value >= self.ge)
        return above and (self.lt is None or value < self.lt) and (self.le is None or value <= self.le)

    def __str__(self) -> str:
        words = {"gt": "larger than", "ge": "at least", "lt": "less than", "le": "at most"}
        return " and ".join(f"{words[name]} {bound:g}" for name, bound in self._given().items())

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Tell pydantic the range, by the method that it looks for in annotations; the core does not import it."""
        return handler(source) | self._given()

    def _given(self) -> dict[str, float]:
        return {name: bound for name, bound in asdict(self).items() if bound is not None}


MUST = "it must be "
Count = Annotated[int, Bounds(gt=0)]
Positive = Annotated[float, Bounds(gt=0)]


def check_fields(settings: Any) -> None:
    """Check every field of a dataclass against the bounds and choices of its type.

    Raises:
        SettingError: for the first value that is out of bounds or not a choice.
    """
    for name, hint in _hints(type(settings)):  # type: ignore[arg-type]
        value = getattr(settings, name)
        if allowed := _allowed_instead(hint, value):
            raise SettingError(f"`{name}` = {value!r}; {allowed}")


@cache
def _hints(kind: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return [(field.name, hints[field.name]) for field in fields(kind)]


def _allowed_instead(hint: Any, value: Any) -> str | None:
    """Return what the value may be in place of what it is; None where it is allowed."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return None if value in parts else f"choose from {', '.join(parts)}"
    if origin is Annotated:
        return _in_bounds(parts[0], [part for part in parts[1:] if isinstance(part, Bounds)], value)
    if origin in (Union, types.UnionType):
        found = [_allowed_instead(part, value) for part in parts if part is not types.NoneType and value is not None]
        return None if not found or None in found else ", or ".join(map(str, found)).replace(f", or {MUST}", ", or ")
    if origin is tuple:
        found = [_allowed_instead(part, each) for part, each in zip(parts, value, strict=True)]
        return next((each for each in found if each), None)
    return None


def _in_bounds(kind: Any, bounds: list[Bounds], value: Any) -> str | None:
    if not all(value in each for each in bounds):
        return f"{MUST}{' and '.join(map(str, bounds))}"
    return f"{MUST}a whole number" if kind is int and value % 1 else None
