"""Servers on one machine as plain background processes, which can be found again and stopped."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tasks.core.errors import EnvironmentFault
from tasks.store.files import write_flushed
from tasks.store.patience import Patience
from tasks.store.processes import process_start

# Longer than a worker waits for the checkpoints of its runs.
STOP_SECONDS = 60.0
POLL_SECONDS = 0.1
LOG_LINES = 15


@dataclass(frozen=True)
class Started:
    """A process that we started: its id and its start time, since ids are reused."""

    pid: int
    started: str


class Processes:
    """Background processes by name, recorded in `<folder>/processes.json`, each with a log in `<folder>/logs`."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "processes.json"
        self.logs = folder / "logs"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        """Start a process in a separate session, so that a closed terminal or Ctrl-C does not reach it."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                list(command),
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # A shell that starts us in the background has SIGINT ignored, which children would inherit.
                preexec_fn=_default_signals,
            )
        self._note({**self._read(), name: Started(process.pid, process_start(process.pid))})

    def running(self, name: str) -> bool:
        """Whether the process that we started under this name still runs."""
        known = self._read().get(name)
        return known is not None and process_start(known.pid) == known.started != ""

    def names(self) -> list[str]:
        """Return the names of all processes that were started and not stopped, in the order of their start."""
        return list(self._read())

    def stop(self, name: str, number: int = signal.SIGTERM, seconds: float = STOP_SECONDS) -> bool:
        """Ask a process to end, then kill it and its descendants if they remain; return whether it was running."""
        known, was_running = self._read().get(name), self.running(name)
        if known is not None and was_running:
            family = psutil.Process(known.pid).children(recursive=True)
            os.kill(known.pid, number)
            _wait_for_end(lambda: self.running(name), seconds)
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            with suppress(ProcessLookupError):
                os.killpg(known.pid, signal.SIGKILL)
        self._note({other: found for other, found in self._read().items() if other != name})
        return was_running

    def log(self, name: str) -> Path:
        """Return the file to which its output goes."""
        return self.logs / f"{name}.log"

    def wait(self, name: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until ready() is true.

        Raises:
            EnvironmentFault: when the process ends or takes too long, with the end of its log.
        """
        deadline = time.monotonic() + seconds
        patience = Patience(lambda: f"{name} to be ready", f"it gets {seconds:.0f} s, its log is {self.log(name)}")
        while not ready():
            if not self.running(name):
                raise EnvironmentFault(f"{name} ended; {self._last_words(name)}")
            if time.monotonic() > deadline:
                raise EnvironmentFault(f"{name} was not ready within {seconds:.0f} s; {self._last_words(name)}")
            patience.tick()
            time.sleep(2 * POLL_SECONDS)
        patience.over()

    def _last_words(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").splitlines()[-LOG_LINES:]
        return f"the end of {self.log(name)}:\n" + "\n".join(lines)

    def _read(self) -> dict[str, Started]:
        try:
            return {name: Started(**values) for name, values in json.loads(self._notes.read_text()).items()}
        except (OSError, ValueError, TypeError):
            return {}

    def _note(self, started: dict[str, Started]) -> None:
        temporary = self._notes.with_suffix(".tmp")
        write_flushed(temporary, json.dumps({name: asdict(found) for name, found in started.items()}).encode())
        os.replace(temporary, self._notes)


def _wait_for_end(running: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while running() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
