"""JSON of a stranger: read within bounds, with no name twice and no number that JSON does not have."""

import json
import math
from typing import Any

from tasks.core.errors import RefusedError


def parse_strictly(content: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object. what: what it is, for messages, which never quote its text.

    Raises:
        RefusedError: when it is not UTF-8, not valid JSON, nested too deep, or not an object, has a name twice in one
            object, or a number that is not finite.
    """
    try:
        found = json.loads(
            content.decode(),
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
    except _NotStrict as error:
        raise RefusedError(f"{what}: {error}") from None
    except RecursionError:
        raise RefusedError(f"{what}: nested too deep") from None
    except UnicodeDecodeError:
        raise RefusedError(f"{what}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise RefusedError(f"{what}: not valid JSON ({error.msg}, character {error.pos})") from None
    if not isinstance(found, dict):
        raise RefusedError(f"{what}: expected one JSON object, found {type(found).__name__}")
    return found


class _NotStrict(ValueError):
    """The text is JSON to Python's parser, and not to us."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotStrict("duplicate key: an object has the same name twice")
    return found


def _refuse_constant(name: str) -> None:
    raise _NotStrict(f"the number {name} is not allowed")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _NotStrict("a number is too large")
    return value


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise _NotStrict(f"a number of {len(digits)} digits is not allowed")
    return int(digits)
