"""The service as a user starts it, on ports of its own, and what the tests ask of it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from flows.service.processes import Processes
from tests.flows.commands import BIN, ROOT, clean_environment, crash, small_settings

NUM_PROCESSES = 6


class Service:
    """`crash up` for one home folder."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home, self.options = home, options

    def up(self, *more: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Start what is not running."""
        ports = (
            () if (self.home / "service" / "choices.json").exists() else ("--prefect-port", "0", "--mlflow-port", "0")
        )
        return crash("up", "--home", str(self.home), *ports, *self.options, *more, timeout=timeout)

    def down(self) -> subprocess.CompletedProcess[str]:
        """Stop all of it."""
        return crash("down", "--home", str(self.home))

    @property
    def connection(self) -> dict[str, str]:
        """Variables of a client."""
        lines = (self.home / "service" / "connection.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def pids(self) -> dict[str, int]:
        """Process numbers of what `crash up` started."""
        notes = json.loads((self.home / "service" / "processes.json").read_text())
        return {name: found["pid"] for name, found in notes.items()}

    def environment(self, **more: str) -> dict[str, str]:
        """Environment of a user's shell that has read connection.env."""
        own = {"PREFECT_HOME": str(self.home / "client"), "DO_NOT_TRACK": "true"}
        return clean_environment(**self.connection, **own, **more)

    def prefect(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Prefect's own command line."""
        command = [str(BIN / "prefect"), *arguments]
        return subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=timeout, cwd=ROOT
        )

    def crash(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Our command line, in a shell that has read connection.env."""
        return crash(*arguments, timeout=timeout, **self.connection)

    def submit(self, settings: Path, *changes: str) -> subprocess.Popen:
        """`crash run SETTINGS --pool` in the background."""
        command = [str(BIN / "crash"), "run", str(settings), "--pool", *changes]
        return subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """A question to the Prefect server."""
        url = f"{self.connection['PREFECT_API_URL']}{path}"
        login = tuple(self.connection.get("PREFECT_API_AUTH_STRING", ":").split(":", 1))
        answer = httpx.post(url, json=body or {}, timeout=30, auth=login if login[0] else None)  # type: ignore[arg-type]
        answer.raise_for_status()
        return answer.json()

    def deployment(self, flow: str, name: str) -> dict[str, Any]:
        """One deployment of a flow."""
        body = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [name]}}}
        (found,) = self.ask("/deployments/filter", body)
        return found

    def all_running(self) -> bool:
        """Whether all that `crash up` starts is there."""
        processes = Processes(self.home / "service")
        return len(processes.names()) == NUM_PROCESSES and all(map(processes.running, processes.names()))

    def runs(self, label: str) -> list[dict[str, Any]]:
        """Flow runs with these words in their name, newest first."""
        found = self.ask("/flow_runs/filter", {"flow_runs": {"name": {"like_": label}}, "sort": "START_TIME_DESC"})
        return list(found)

    def task_states(self, run_id: str) -> dict[str, str]:
        """Name of each task run to its state's name."""
        body = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200}
        return {found["name"]: found["state_name"] for found in self.ask("/task_runs/filter", body)}

    def flow_processes(self) -> list[int]:
        """Numbers of the processes in which the workers run flows."""
        wanted, found = str(self.home), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if b"prefect.engine" in words and wanted in (folder / "environ").read_text(errors="replace"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


def wait_until(condition: Callable[[], Any], what: str, seconds: float) -> Any:
    """Poll until it is true; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.2)
    return value


def kill(*pids: int) -> None:
    """As the kernel does when memory runs out."""
    for pid in pids:
        # One may have died with another.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def own_settings(folder: Path, label: str, *lines: str) -> Path:
    """Small settings with a store and a name of their own, so that tests do not find one another's results."""
    path = small_settings(folder)
    text = path.read_text().partition("[place]")[0]
    text += f'[place]\nlabel = "{label}"\nstore = "{folder / "store"}"\n' + "".join(f"{line}\n" for line in lines)
    path.write_text(text)
    return path
