"""Packages that re-export the public names of their modules, and import each module when it is first needed."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def face_of(package: str, modules: Sequence[str]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package, which looks up a public name in its modules, in the given order."""

    def find(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        for module in modules if not name.startswith("_") else ():
            found = vars(import_module(f"{package}.{module}"))
            if name in found:
                return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
