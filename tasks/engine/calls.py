"""Call a function in a short-lived process, so that the process that orchestrates stays free of torch."""

import importlib
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tasks.engine import child_process


def call_in_child(module: str, function: str, *arguments: Any) -> Any:
    """Return what the function returns, or raise the error that it raises. Both must be picklable."""
    child_process.warm_up()
    with ProcessPoolExecutor(1, mp_context=child_process.context) as pool:
        return pool.submit(_call, module, function, arguments).result()


def _call(module: str, function: str, arguments: tuple) -> Any:
    return getattr(importlib.import_module(module), function)(*arguments)
