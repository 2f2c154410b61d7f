"""Packages that show the public names of their modules as their own, and import a module when it is first asked for."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any


def face_of(package: str, modules: Sequence[str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package: finds a public name in one of its modules, in their order."""

    def find(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        for module in modules if not name.startswith("_") else ():
            found = vars(import_module(f"{package}.{module}"))
            if name in found:
                return found[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
