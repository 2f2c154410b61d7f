"""Call a function in a short-lived process, so that the process that orchestrates stays free of torch."""

import importlib
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tasks.core.errors import EnvironmentFault, InterruptedRun
from tasks.engine import child_process
from tasks.engine.places import never


def call_in_child(
    module: str, function: str, *arguments: Any, seconds: float = 600.0, stopped: Callable[[], bool] = never
) -> Any:
    """Return what the function returns. Its arguments and its result must be picklable.

    Raises:
        CrashError: the error that it raised.
        EnvironmentFault: when its process was killed, or ran longer than `seconds`.
        InterruptedRun: when stopped() is true meanwhile.
    """
    child_process.warm_up()
    receiving, sending = child_process.context.Pipe(duplex=False)
    process = child_process.context.Process(target=_serve, args=(sending, module, function, arguments), daemon=False)
    process.start()
    sending.close()
    deadline = time.monotonic() + seconds

    def watch() -> None:
        if stopped():
            raise InterruptedRun(f"interrupted in {function}")
        if time.monotonic() > deadline:
            raise EnvironmentFault(f"{function} takes too long on this machine; see whether a file or a server hangs")

    try:
        return child_process.listen(process, receiving, watch, function)
    finally:
        process.kill()
        process.join()
        process.close()
        receiving.close()


def _serve(sending: Connection, module: str, function: str, arguments: tuple) -> None:
    # Requests to stop stay blocked, as in the server that it is forked from: the parent ends this process.
    child_process.die_with_parent()
    try:
        sending.send(("done", getattr(importlib.import_module(module), function)(*arguments)))
    except Exception as error:
        code = getattr(error, "exit_code", 1)
        sending.send(("error", type(error).__name__, str(error), code, traceback.format_exc()))
