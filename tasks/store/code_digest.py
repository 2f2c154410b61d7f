"""Digest of the code that computes a result, wherever in the tree that code is.

The digest covers the module of a stage and all modules that it imports, directly or not, also inside functions. The
packages in UNKEYED are left out, with all that only they import. Comments, docstrings, layout and module names have no
effect: moving a definition to another file changes no digest. What a name refers to has: a statement is hashed together
with the definitions that it uses, so that importing another function of the same name is a change. Of a package, the
templates in its folder count like statements, as its code writes a result with them.
"""

import ast
import hashlib
import importlib.util
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# This project's packages, and those of them that never affect a result: they store, schedule and record.
OWN = ("flows", "tasks")
UNKEYED = ("tasks.store", "tasks.engine", "tasks.tracking")
# Templates of pages, and the styles and scripts in them.
TEMPLATE_SUFFIXES = (".j2", ".css", ".js")
# Patterns in the text of a syntax tree: a name, a name's attribute, and a name that a statement binds.
NAME = re.compile(r"Name\(id='(\w+)'")
ATTRIBUTE = re.compile(r"Attribute\(value=Name\(id='(\w+)', ctx=Load\(\)\), attr='(\w+)'")
STORED = re.compile(r"Name\(id='(\w+)', ctx=Store\(\)\)|(?:Function|Class)Def\(name='(\w+)'")
_parsing = threading.Lock()
MOST_TRIES, PAUSE_SECONDS = 50, 0.02


@dataclass(frozen=True)
class Module:
    """The statements and references of one file, without docstrings and own imports.

    statements: text of each top-level statement and the names it uses, alone or as (name, attribute); defined: digest
    of the statement that binds a name; imported: module and name that a name is imported from; imports: own modules.
    """

    statements: tuple[tuple[str, frozenset[str | tuple[str, str]]], ...]
    defined: dict[str, str]
    imported: dict[str, tuple[str, str]]
    imports: tuple[str, ...]


def code_digest(module: str) -> str:
    """SHA-256, in 64 hexadecimal digits, of the code that a module computes with."""
    digests = [
        each for name in reached_modules(module) for each in (*_statement_digests(name), *_template_digests(name))
    ]
    return _sha256("\n".join(sorted(digests)))


@cache
def reached_modules(module: str) -> frozenset[str]:
    """Names of the modules whose code is in the digest of a module."""
    packages, found, waiting = _packages(module), set(), [module]
    while waiting:
        name = waiting.pop()
        read = None if name in found else _module(name)
        if read is not None:
            found.add(name)
            waiting += [each for each in read.imports if _counts(each, packages)]
    return frozenset(found)


def forget_code() -> None:
    """Clear the caches, so that sources that changed while this process runs are read again."""
    for cached in (reached_modules, _module, _statement_digests, _template_digests, _places):
        cached.cache_clear()


@cache
def _statement_digests(name: str) -> tuple[str, ...]:
    """Digest of each statement of a module, combined with those of the definitions that its names refer to."""
    module = _module(name)
    assert module is not None
    found = []
    for text, names in module.statements:
        digests = {each: _definition(name, each) for each in names}
        named = sorted(f"{each}={digest}" for each, digest in digests.items() if digest)
        found.append(_sha256(f"{text} {named}"))
    return tuple(found)


@cache
def _template_digests(name: str) -> tuple[str, ...]:
    """Digest of name and content of each template in the folder of a package; none for a module that is a file."""
    path = _source(name)
    if path is None or path.name != "__init__.py":
        return ()
    templates = sorted(each for each in path.parent.iterdir() if each.suffix in TEMPLATE_SUFFIXES)
    return tuple(_sha256(f"{each.name} {hashlib.sha256(each.read_bytes()).hexdigest()}") for each in templates)


def _definition(module: str, name: str | tuple[str, str]) -> str | None:
    """Digest of the statement that defines a module's name, followed through imports; None if it does not count."""
    packages = _packages(module)
    if isinstance(name, tuple):
        read, (imported, name) = _module(module), name
        if read is None or imported not in read.imported:
            return None
        module = ".".join(part for part in read.imported[imported] if part)
    seen = set()
    while _counts(module, packages) and (read := _module(module)) is not None and (module, name) not in seen:
        seen.add((module, name))
        if name in read.defined or name not in read.imported:
            return read.defined.get(name)
        module, name = read.imported[name]
    return None


@cache
def _module(name: str) -> Module | None:
    """Read a module of our own code; None if there is none of this name."""
    path = _source(name)
    if path is None:
        return None
    return _read(path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0])


@cache
def _read(source: str, package: str) -> Module:
    tree = _parsed(source)
    aliases: list[tuple[str, ast.alias]] = []
    # An empty file, such as `__init__.py`, has no statement.
    tree.body = [each for each in _plain(tree, package, aliases) if not isinstance(each, ast.Pass)]
    texts = [ast.dump(statement) for statement in tree.body]
    # `from tasks.core import plan` names a module, `from tasks.core.plan.layout import Plan` does not.
    imports = {each for base, alias in aliases for each in (base, f"{base}.{alias.name}".lstrip(".")) if each}
    return Module(
        statements=tuple((text, frozenset(_names(text))) for text in texts),
        defined={
            bound: _sha256(text) for text, each in zip(texts, tree.body, strict=True) for bound in _bound(each, text)
        },
        imported={alias.asname or _top(alias.name): (base, alias.name if base else "") for base, alias in aliases},
        imports=tuple(sorted(imports)),
    )


def _parsed(source: str) -> ast.Module:
    """Parse a source, while another thread of ours, or a package that it imports, may parse another one.

    CPython 3.11 counts the depth of syntax trees per process, and fails with SystemError where two threads parse.
    """
    with _parsing:
        for _ in range(MOST_TRIES - 1):
            try:
                return ast.parse(source)
            except SystemError:
                time.sleep(PAUSE_SECONDS)
        return ast.parse(source)


def _plain(node: Any, package: str, aliases: list[tuple[str, ast.alias]]) -> list[ast.stmt]:
    """Return a block's statements without docstrings and own imports, at all depths. aliases: collects the imports.

    Docstrings are all statements that are a string alone, also those under attributes, such as explain a setting.
    """
    found = []
    for statement in node.body:
        if _is_text(statement):
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            own, others = _parted(statement, package)
            aliases += own
            if not others:
                continue
        for part in _blocks(statement):
            part.body = _plain(part, package, aliases)
        for name in ("orelse", "finalbody"):
            if getattr(statement, name, None):
                setattr(statement, name, _plain(_Block(getattr(statement, name)), package, aliases))
        found.append(statement)
    return found or [ast.Pass()]


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _parted(node: ast.Import | ast.ImportFrom, package: str) -> tuple[list[tuple[str, ast.alias]], bool]:
    """Return (base, alias) of each name in an import statement (base is "" for `import`), and whether to keep it."""
    own = (*OWN, _top(package))
    if isinstance(node, ast.Import):
        return [("", alias) for alias in node.names], not all(_under(alias.name, own) for alias in node.names)
    relative = "." * node.level + (node.module or "")
    base = importlib.util.resolve_name(relative, package) if node.level else relative
    return [(base, alias) for alias in node.names], not (node.level or _under(base, own))


def _blocks(statement: ast.stmt) -> list[Any]:
    """Return the parts of a statement that have a `body` of statements."""
    own = [statement] if hasattr(statement, "body") else []
    return [*own, *getattr(statement, "handlers", ()), *getattr(statement, "cases", ())]


@dataclass
class _Block:
    """Statements of an `else` or `finally` branch."""

    body: list[ast.stmt]


def _names(text: str) -> Iterator[str | tuple[str, str]]:
    yield from NAME.findall(text)
    yield from ATTRIBUTE.findall(text)


def _bound(statement: ast.stmt, text: str) -> list[str]:
    """Return the names that a top-level statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    return [name or nested for name, nested in STORED.findall(text)]


def _packages(module: str) -> frozenset[str]:
    """Top-level packages whose code is in the digest: this project's, and the module's own."""
    return frozenset(("tasks", _top(module)))


def _counts(module: str, packages: frozenset[str]) -> bool:
    return _top(module) in packages and not _under(module, UNKEYED)


def _under(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _source(name: str) -> Path | None:
    """Find the file of a module, importing nothing but finding its top package; None if there is none."""
    top, *parts = name.split(".")
    for place in _places(top):
        path = Path(place).joinpath(*parts)
        for candidate in (path.with_suffix(".py") if parts else path / "__init__.py", path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def _places(top: str) -> tuple[str, ...]:
    """Return the folders of a top package; empty for a single file or a missing package."""
    try:
        found = importlib.util.find_spec(top)
    except ValueError:
        return ()
    return tuple(found.submodule_search_locations or ()) if found else ()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
