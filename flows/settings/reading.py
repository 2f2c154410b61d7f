"""Settings from TOML files and `--set key=value`, with errors that name file, line, key and the choices."""

import difflib
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flows.settings.grid import split_axes
from flows.settings.group import FOLDERS
from flows.settings.kinds import AllSettings, validated
from flows.settings.run import Kind, Settings
from flows.settings.variants import TABLE
from tasks.core.errors import InputError
from tasks.data.sources import NAME_PLACE
from tasks.models.user_text import read_user_text

PartyKind = TypeVar("PartyKind", bound=BaseModel)
# Sweeps that come with the project.
READY = Path(__file__).parents[1] / "tables"


def read_settings(
    path: Path,
    changes: list[str] | None = None,
    kind: type[Kind] = Settings,  # type: ignore[assignment]
) -> Kind:
    """Read a TOML file with `--set` changes applied. kind: the settings of the flow.

    Relative model and data folders that exist beside the file are taken from there.

    Raises:
        InputError: when the file cannot be read or a setting is invalid.
    """
    values, text = _read(path, changes)
    return _validated(values, path, text, kind)


def settings_of(values: dict[str, Any], changes: list[str]) -> Settings:
    """Return the settings of a command without a file: these values with `--set` changes applied.

    Raises:
        InputError: when a setting is invalid.
    """
    for change in changes:
        _apply(values, change)
    return _validated(values, Path("command line"), "", Settings)


def read_party_settings(path: Path, changes: list[str] | None, kind: type[PartyKind]) -> PartyKind:
    """Read the TOML file of a party that has no full model, with `--set` changes applied. kind: its settings.

    Raises:
        InputError: when the file cannot be read or a setting is invalid.
    """
    values, text = _read(path, changes)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(_explain(problem, path, text, kind) for problem in error.errors())) from error


def read_sweep(
    path: Path,
    changes: list[str] | None = None,
    kind: type[Kind] = Settings,  # type: ignore[assignment]
) -> tuple[Kind, dict[str, list[Any]]]:
    """Read a TOML file in which lists make a grid: return the settings of the first cell, and the axes.

    A file that does not exist is looked for among those that come with the project.

    Raises:
        InputError: when the file cannot be read or a setting is invalid.
    """
    ready = READY / path
    values, text = _read(ready if not path.exists() and ready.is_file() else path, changes)
    base, axes = split_axes(values)
    return _validated(base, path, text, kind), axes


def _read(path: Path, changes: list[str] | None) -> tuple[dict[str, Any], str]:
    try:
        text = read_user_text(path)
        values = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a TOML file") from error
    except InputError as error:
        raise InputError(f"not valid TOML: {error}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error
    for change in changes or []:
        _apply(values, change)
    folder, variants = path.resolve().parent, values.get(TABLE)
    for table in [values, *(variants if isinstance(variants, list) else [])]:
        if isinstance(table, dict):
            change_folders(table, lambda text: _beside(text, folder))
    return values, text


def _validated(values: dict[str, Any], path: Path, text: str, kind: type[Kind]) -> Kind:
    try:
        return validated(values, kind)
    except ValidationError as error:
        raise InputError("\n".join(_explain(problem, path, text) for problem in error.errors())) from error


def _apply(values: dict[str, Any], change: str) -> None:
    """Set one `key.of.setting=value`, where the value is TOML or else a string; an empty one restores the default."""
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise InputError(f"--set {change!r}: write it as key=value, for example --set tune.learning_rate=2e-5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.strip().split(".")
    group: Any = values
    for table in tables:
        group = group.setdefault(table, {})
        if not isinstance(group, dict):
            raise InputError(f"--set {change!r}: {table} is a value, not a table of settings")
    if text.strip():
        group[name] = value
    else:
        group.pop(name, None)


def change_folders(values: dict[str, Any], change: Callable[[Any], Any]) -> None:
    """Apply `change` to all settings that name folders, in place. values: of a file, not validated yet."""
    for *names, key in FOLDERS:
        for table in _tables(values, names):
            if table.get(key):
                table[key] = each_folder(table[key], change)


def _tables(values: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the tables at a place, of which there are several where one on the way is a list."""
    found: list[Any] = [values]
    for name in names:
        inner = [table.get(name) for table in found if isinstance(table, dict)]
        found = [each for part in inner for each in (part if isinstance(part, list) else [part])]
    return [table for table in found if isinstance(table, dict)]


def each_folder(given: Any, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to a setting that names one folder, a list of folders, or a table of folders by name."""
    if isinstance(given, dict):
        return {name: change(part) for name, part in given.items()}
    return [change(part) for part in given] if isinstance(given, list) else change(given)


def _beside(text: Any, folder: Path) -> Any:
    if not isinstance(text, str):
        return text
    # Of a path for several tasks, the part that they have in common.
    known = text.partition(NAME_PLACE)[0] or "."
    if not Path(known).exists() and (folder / known).exists():
        return str(folder / text)
    return text


def _explain(problem: Any, path: Path, text: str, kind: type[BaseModel] = AllSettings) -> str:
    keys = [str(part) for part in problem["loc"]]
    name = ".".join(keys)
    where = f"{path}{_line_of(text, keys)}"
    if keys == [TABLE]:
        return f"{where}: variants are run side by side by `crash sweep`; `crash run` takes one"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown setting {name}. {_suggest(keys, kind)}"
    if problem["type"] == "missing":
        return f"{where}: the setting {name} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
    return f"{where}: {name or 'settings'}: {message}{given}"


def _line_of(text: str, keys: list[str]) -> str:
    """Return `:line` of the deepest key found in the file, or nothing for a key given by --set."""
    for key in reversed(keys):
        for number, line in enumerate(text.splitlines(), start=1):
            if re.match(rf"\s*\[*\s*[\w.\"]*\b{re.escape(key)}\b\s*[\]=]", line):
                return f":{number}"
    return ""


def _suggest(keys: list[str], group: type[BaseModel]) -> str:
    """Suggest the nearest key, and list every key of that table. group: of all settings."""
    for key in keys[:-1]:
        inner = group.model_fields[key].annotation if key in group.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        group = inner
    names = list(group.model_fields)
    near = difflib.get_close_matches(keys[-1], names, n=1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"{meant}Choose from: {', '.join(names)}"
