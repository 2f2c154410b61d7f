"""Keys: what a result depends on, and nothing else.

A key is the SHA-256 of canonical JSON of: the stage's name, the code that computes it, its arguments (inputs by the
digest of their content), and the versions of the packages that it uses. Never a path, never a time.
"""

import ast
import enum
import hashlib
import importlib.util
import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.core.errors import InputError

_parsing = threading.Lock()


def stage_key(
    stage: str, module: str, arguments: dict[str, Any], packages: Sequence[str], roots: Sequence[str] = ("tasks.core",)
) -> tuple[str, dict[str, Any]]:
    """The key (64 hexadecimal digits) and what went into it.

    Raises InputError when an argument is of a type whose content cannot be identified.
    """
    inputs = {
        "stage": stage,
        "code": code_digest(module, tuple(roots)),
        "arguments": {name: canonical(value, name) for name, value in sorted(arguments.items())},
        "packages": {name: package_version(name) for name in sorted(packages)},
    }
    return hashlib.sha256(canonical_json(inputs).encode()).hexdigest(), inputs


def canonical_json(value: Any) -> str:
    """JSON text that is the same for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def canonical(value: Any, where: str = "value") -> Any:
    """The value as plain JSON that says all that matters. Raises InputError, naming `where`, for unknown types."""
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
    """Installed version of a distribution, or "absent"."""
    try:
        # A local build label (+cu128) is another build of the same source.
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "absent"


def code_digest(module: str, roots: tuple[str, ...] = ("tasks.core",)) -> str:
    """SHA-256 of the syntax trees of a module and of all modules under `roots` that it imports, directly or not.

    Comments, layout and docstrings do not count; imports inside functions do.
    """
    # CPython 3.11 counts the depth of syntax trees for the whole process: two threads at once make it fail.
    with _parsing:
        return _code_digest(module, roots)


@cache
def _code_digest(module: str, roots: tuple[str, ...]) -> str:
    trees: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in trees else _source(name)
        if path is None:
            continue
        tree = ast.parse(path.read_text())
        trees[name] = ast.dump(_without_docstrings(tree))
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [found for found in _imports(tree, package) if _under(found, roots)]
    return hashlib.sha256(canonical_json(trees).encode()).hexdigest()


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, package) if node.level else relative
            yield base
            # `from tasks.core import plan` names a module, `from tasks.core.plan import Plan` does not.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _under(name: str, roots: Sequence[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _source(name: str) -> Path | None:
    """The file of a module, found without importing anything but finding its top package; None if there is none."""
    top, *parts = name.split(".")
    try:
        found = importlib.util.find_spec(top)
    except ValueError:
        return None
    places = list(found.submodule_search_locations or []) if found else []
    for place in places:
        path = Path(place).joinpath(*parts)
        for candidate in (path.with_suffix(".py") if parts else path / "__init__.py", path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


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
