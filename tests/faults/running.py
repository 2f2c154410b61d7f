"""The whole command as a process that a test watches, signals and kills."""

import os
import signal
import subprocess
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.flows.commands import CRASH, clean_environment


class Running:
    """`crash run` in a process group of its own, findable by a mark in its environment."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.mark = f"run-{uuid.uuid4()}"
        # A file, since what was printed before a signal is to be told from what came after it.
        descriptor, name = tempfile.mkstemp(prefix="run-")
        self._printed = Path(name)
        weakref.finalize(self, self._printed.unlink, missing_ok=True)
        self._size_at_signal = 0
        self.process = subprocess.Popen(
            [str(CRASH), "run", *arguments],
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            env=clean_environment(CRASH_TEST_MARK=self.mark, **environment),
            start_new_session=True,
        )
        os.close(descriptor)

    @property
    def output(self) -> str:
        """All output of the run so far."""
        return self._printed.read_text(errors="replace")

    @property
    def output_after_signal(self) -> str:
        """The output of the run since `end` sent its signal."""
        return self._printed.read_bytes()[self._size_at_signal :].decode(errors="replace")

    def wait(self, seconds: float) -> int:
        """Wait for the command's exit code."""
        return self.process.wait(timeout=seconds)

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
        """Poll; the run must still be going when the condition comes true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.output}"
            if time.monotonic() > deadline:
                # With the server that it may have started.
                os.killpg(self.process.pid, signal.SIGKILL)
                raise AssertionError(f"no {what} within {seconds} s: {self.output}")
            time.sleep(0.005)

    def end(self, number: int, seconds: float = 60, to: str = "the command") -> int:
        """Send a signal and wait for the command's exit code. to: "the command" alone, "the group", or "all"."""
        self._size_at_signal = self._printed.stat().st_size
        if to == "the group":
            os.killpg(self.process.pid, number)
        elif to == "all":
            for pid in self._ours():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), number)
        else:
            self.process.send_signal(number)
        return self.wait(seconds)

    def survivors(self) -> list[str]:
        """Processes with our mark that are still there."""
        found = []
        for pid in self._ours():
            with suppress(OSError):
                found.append((Path("/proc") / pid / "cmdline").read_text().replace("\0", " "))
        return found

    def _ours(self) -> Iterator[str]:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark in (folder / "environ").read_text(errors="replace"):
                    yield folder.name

    def waits_for_a_core(self) -> dict[int, tuple[float, float]]:
        """Of each process of ours that is there: seconds that its main thread ran, and waited for a free core."""
        found = {}
        for pid in self._ours():
            try:
                ran, waited, _ = (Path("/proc") / pid / "schedstat").read_text().split()
            except OSError:
                continue
            found[int(pid)] = (int(ran) / 1e9, int(waited) / 1e9)
        return found

    def no_survivors(self, seconds: float = 15) -> bool:
        """Whether every process of the run is gone within the time."""
        deadline = time.monotonic() + seconds
        while self.survivors() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.survivors()


def being_written(home: Path, stage: str) -> bool:
    """Whether the stage's temporary folder is there: it computes now."""
    return any(home.glob(f"store/tmp/*-{stage}-*"))


def tunes(home: Path) -> bool:
    """Whether a tuning has made its first step."""
    return any("learning_rate" in path.read_text() for path in home.glob("store/work/*/metrics.jsonl"))
