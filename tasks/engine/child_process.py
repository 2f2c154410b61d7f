"""Run a stage in a separate process, forked from a warm server.

Random state, thread count and memory belong to one stage, so two tunings side by side are bit for bit what each is
alone; a stage killed for lack of memory affects nothing else; and the orchestrating process stays free of torch, so
that a fully cached run starts in seconds.
"""

import importlib
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from tasks.core import errors
from tasks.engine.resources import require_device
from tasks.engine.work import Work
from tasks.store.disk import DISK_ERRORS
from tasks.store.remote.store import open_store
from tasks.store.signals import SAME_REQUEST_SECONDS, STOPPING, shielded, unshield
from tasks.store.sockets import short_temporary_folder

CHECKPOINT_SECONDS = 25.0
POLL_SECONDS = 0.5
# oneDNN keeps a compiled kernel for each shape of a product, nearly a megabyte in bfloat16, by default 1024 of them.
# Passes of varying shapes seldom use one again, and kernels between tensors keep memory from being used again.
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
logger = logging.getLogger(__name__)
context = multiprocessing.get_context("forkserver")


def fix_environment() -> None:
    """Set the variables of every process that this one starts from here on.

    To be called before other threads run: the C library's setenv moves the environment while a getenv of another thread
    may read it.
    """
    # A task's own code that iterates over a set of texts orders its rows by their hashes.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
    for name, value in KERNELS.items():
        os.environ.setdefault(name, value)


def warm_up() -> None:
    """Start the server from which stages are forked, with the slow imports done once."""
    fix_environment()
    context.set_forkserver_preload(["tasks.engine.preload"])
    from multiprocessing import forkserver, resource_tracker

    with shielded():
        resource_tracker.ensure_running()
    # A second time: starting the tracker unblocks the signals.
    with short_temporary_folder(), shielded():
        forkserver.ensure_running()


class Children:
    """The processes in which the stages of one run compute.

    Once stopped, no further process starts: threads that still wait for a parent or a free core find the run over.
    """

    def __init__(self) -> None:
        self._running: set[Any] = set()
        self._lock = threading.Lock()
        self._stop_signal: int | None = None

    def run(
        self,
        function: tuple[str, str],
        arguments: dict[str, Any],
        work: dict[str, Any],
        watch: Callable[[], None] = lambda: None,
        started: Callable[[int], None] = lambda pid: None,
    ) -> dict[str, Any]:
        """Run `module.stage.compute` with a Work in a child; return its summary, or raise the error that it raised.

        watch is called about twice a second while the child computes; started, once, with the child's process id.

        Raises:
            InterruptedRun: when the run was stopped.
        """
        label = work["label"] or function[1]
        warm_up()
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=compute, args=(sending, function, arguments, work), daemon=False)
        with self._lock:
            self._refuse_when_stopped(label)
            process.start()
            self._running.add(process)
        started(process.pid or 0)
        sending.close()
        try:
            return listen(process, receiving, watch, label)
        except errors.CrashError:
            # A child that received the signal before it had its handlers ends by the signal itself.
            self._refuse_when_stopped(label)
            raise
        finally:
            if process.is_alive():
                # `watch` failed, so the result is not needed.
                process.kill()
            receiving.close()
            process.join()
            with self._lock:
                self._running.discard(process)
                process.close()

    def ask_to_stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Ask every computing stage to write its checkpoint and end; no further one starts."""
        with self._lock:
            self._stop_signal = signal_number
            self._send(signal_number)

    def stop(self, signal_number: int = signal.SIGTERM, seconds: float = CHECKPOINT_SECONDS) -> None:
        """Ask every computing stage to write its checkpoint and end; kill those that do not end within the time."""
        self.ask_to_stop(signal_number)
        deadline = time.monotonic() + seconds
        while self._any_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        with self._lock:
            self._send(signal.SIGKILL)

    def stopped(self) -> bool:
        """Return whether the run was stopped."""
        return self._stop_signal is not None

    def _send(self, signal_number: int) -> None:
        for process in self._running:
            if process.is_alive():
                os.kill(process.pid, signal_number)

    def _any_alive(self) -> bool:
        with self._lock:
            return any(process.is_alive() for process in self._running)

    def _refuse_when_stopped(self, label: str) -> None:
        if self._stop_signal is not None:
            raise errors.InterruptedRun(f"{label} was interrupted", self._stop_signal)


def listen(process: Any, receiving: Connection, watch: Callable[[], None], label: str) -> Any:
    """Log what a child says until it has ended; return its result, or raise the error that it raised or died of.

    watch is called about twice a second meanwhile; what it raises ends the wait.
    """
    outcome: tuple | None = None
    while outcome is None:
        ready = wait([receiving, process.sentinel], timeout=POLL_SECONDS)
        watch()
        if receiving in ready:
            try:
                message = receiving.recv()
            except EOFError:
                break
            if message[0] == "log":
                logger.log(message[1], "%s: %s", label, message[2])
            else:
                outcome = message
        elif ready:
            break
    process.join()
    watch()
    if outcome is None:
        raise error_for_exit_code(process.exitcode, label)
    if outcome[0] == "error":
        raise error_from_message(label, *outcome[1:])
    return outcome[1]


def error_for_exit_code(exit_code: int, label: str) -> Exception:
    """Map the exit code of a process that sent no result to an error."""
    if exit_code == -signal.SIGKILL:
        return errors.StageKilledError(
            f"{label}: its process was killed (signal 9), most often for lack of memory. Free memory or lower"
            " tune.max_tokens or evaluate.max_tokens, then run the same command: finished stages are kept and tuning"
            " resumes."
        )
    if exit_code - 128 in STOPPING:
        return errors.InterruptedRun(f"{label} was interrupted", exit_code - 128)
    return errors.CrashError(f"{label}: its process ended with exit code {exit_code} and no result")


def error_from_message(label: str, class_name: str, message: str, exit_code: int, trace: str) -> Exception:
    """Recreate the error that a process has described."""
    kind = getattr(errors, class_name, None)
    if kind is errors.InterruptedRun:
        return errors.InterruptedRun(message, exit_code - 128)
    if kind is not None:
        return kind(message)
    return errors.CrashError(f"{label} failed: {class_name}: {message}\n{trace}")


class _ForwardLogs(logging.Handler):
    def __init__(self, sending: Connection) -> None:
        super().__init__(logging.INFO)
        self.sending = sending

    def emit(self, record: logging.LogRecord) -> None:
        self.sending.send(("log", record.levelno, record.getMessage()))


def compute(sending: Connection, function: tuple[str, str], arguments: dict[str, Any], spec: dict[str, Any]) -> None:
    """Run one computation of one stage in this process, and send its summary or its error."""
    os.environ.update(spec.pop("environment", {}))
    spec["store"] = open_store(spec["store"], spec.pop("store_url", None))
    work = Work(**spec)
    die_with_parent()
    project = logging.getLogger("tasks")
    project.handlers, project.propagate = [_ForwardLogs(sending)], False
    project.setLevel(logging.INFO)
    try:
        _install_signals(work)
        import torch

        torch.set_num_threads(work.num_threads)
        require_device(work.device)
        stage = getattr(importlib.import_module(function[0]), function[1])
        summary = stage.compute(work, **arguments)
        work.store.settle_work(wanted=False)
        sending.send(("done", summary))
    except BaseException as error:
        if isinstance(error, errors.InterruptedRun) and work.stop_signal is not None:
            # The core knows that it has to stop, but not by which signal.
            error.exit_code = 128 + work.stop_signal
        work.store.settle_work()
        sending.send(_describe(error, work))
        sys.exit(getattr(error, "exit_code", 1))


def _describe(error: BaseException, work: Work) -> tuple:
    name, message = type(error).__name__, str(error)
    if isinstance(fault := _disk_fault(error), OSError):
        # Disk full, permissions, I/O: a fault of the user's machine, not our bug.
        name, message = "EnvironmentFault", f"{work.label}: {work.store.explained(fault, work.out)}"
    elif isinstance(error, MemoryError) or name == "OutOfMemoryError":
        name, message = "EnvironmentFault", f"out of memory ({message}); lower batch sizes or use a larger machine"
    return ("error", name, message, getattr(error, "exit_code", 1), traceback.format_exc())


def _disk_fault(error: BaseException) -> BaseException:
    """Return the error, or the OSError behind it: Rust libraries (safetensors, tokenizers) only mention its number."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None or isinstance(error, OSError) or int(found[1]) not in DISK_ERRORS:
        return error
    return OSError(int(found[1]), os.strerror(int(found[1])))


def die_with_parent() -> None:
    """End this process as soon as its parent is gone, for whatever reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(137)

    threading.Thread(target=watch, daemon=True).start()


def _install_signals(work: Work) -> None:
    """On the first signal, stages that poll finish the step and save a checkpoint, others stop; a second Ctrl-C exits.

    A signal to every process of a job arrives here twice, once from the orchestrating process.
    """
    asked_at = 0.0

    def handle(number: int, _frame: Any) -> None:
        nonlocal asked_at
        if work.stop_signal is not None:
            if number == signal.SIGINT and time.monotonic() - asked_at >= SAME_REQUEST_SECONDS[signal.SIGINT]:
                os._exit(128 + number)
            return
        work.stop_signal, asked_at = number, time.monotonic()
        if not work.polls_for_stop:
            raise errors.InterruptedRun(f"{work.label} was interrupted", number)

    for number in STOPPING:
        # Keep SIGHUP ignored if `nohup` has set that.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handle)
    unshield()
