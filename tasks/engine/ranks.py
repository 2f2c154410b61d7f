"""Run one stage in several processes with a device each, started, watched and ended by the stage's own process.

The stage's process computes nothing itself. It never waits for another one without a limit, so it can say which process
failed and why, pass on a request to stop, and end those that wait for one that is gone.
"""

import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tasks.core.errors import EnvironmentFault
from tasks.engine import child_process as child
from tasks.engine.work import Work
from tasks.store.remote.store import CachedRemoteStore

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.2
# When one process fails, others fail as a consequence: how long to wait for the error that caused the others.
GRACE_SECONDS = 3.0
# How long the others wait for one process that is busy alone, for example writing a large checkpoint.
SILENCE = timedelta(minutes=15)
# Words in torch's errors in a process that lost another one.
ECHOES = ("gloo", "nccl", "connection closed by peer", "connection reset", "torch.distributed")
INHERITED = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


def run_ranks(work: Work, function: tuple[str, str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Run `module.stage.compute` in each of work.num_processes until all have ended; return the summary of the first.

    Raises:
        CrashError: the error of the process that caused the failure.
        EnvironmentFault: when a process was killed, or all that failed lost contact with the others.
        InterruptedRun: when all of them stopped on request.
    """
    child.warm_up()
    with tempfile.TemporaryDirectory(prefix="crash-ranks-") as folder:
        ranks: list[_Rank] = []
        try:
            for number in range(work.num_processes):
                ranks.append(_Rank(number, work, function, arguments, str(Path(folder) / "meeting")))
            _watch(ranks, work)
        finally:
            for rank in ranks:
                rank.end()
    failed = [rank for rank in ranks if rank.failure is not None]
    if failed:
        raise _first_cause(failed)
    assert ranks[0].summary is not None
    return ranks[0].summary


@contextlib.contextmanager
def process_group(work: Work) -> Iterator[None]:
    """Make the processes that `run_ranks` started one process group of torch inside the block; no effect for one alone.

    GPU tensors are sent by NCCL, CPU tensors by gloo.

    Raises:
        RuntimeError: when another process does not answer within `SILENCE`.
    """
    if work.rank is None:
        yield
        return
    import torch

    gpus = work.device.startswith("cuda")
    if gpus:
        torch.cuda.set_device(work.rank)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        # Not by URL: torch cuts the path at a question mark.
        store=torch.distributed.FileStore(work.meeting, work.num_processes),
        rank=work.rank,
        world_size=work.num_processes,
        timeout=SILENCE,
    )
    yield
    # Not in a `finally`: after an error the process ends at once, as destroying the group would wait for dead ones.
    torch.distributed.destroy_process_group()


class _Rank:
    """One process, and its result or failure."""

    def __init__(
        self, number: int, work: Work, function: tuple[str, str], arguments: dict[str, Any], meeting: str
    ) -> None:
        self.number = number
        self.label = f"{work.label or function[1]}, process {number + 1} of {work.num_processes}"
        self.summary: dict[str, Any] | None = None
        self.failure: Exception | None = None
        self.is_echo = False
        self._receiving, sending = child.context.Pipe(duplex=False)
        spec = _spec(work, number, meeting)
        self._process: Any = child.context.Process(
            target=child.compute, args=(sending, function, arguments, spec), daemon=True
        )
        self._process.start()
        sending.close()

    @property
    def is_over(self) -> bool:
        """Whether it has returned or failed."""
        return self.summary is not None or self.failure is not None

    @property
    def sources(self) -> list[Any]:
        """Objects to wait on: its connection and its sentinel."""
        return [self._receiving, self._process.sentinel]

    def listen(self) -> None:
        """Handle its messages so far; a process that ended without a result has failed."""
        while not self.is_over:
            # Check this before reading messages: a dead process has sent all of its messages.
            is_dead = not self._process.is_alive()
            try:
                message = self._receiving.recv() if self._receiving.poll() else None
            except EOFError:
                message, is_dead = None, True
            if message is not None:
                self._hear(message)
            elif is_dead:
                self._process.join()
                self.failure = child.error_for_exit_code(self._process.exitcode, self.label)
                # A process ends with SIGABRT when its GPU timed out waiting for another one's.
                self.is_echo = self._process.exitcode == -signal.SIGABRT
            else:
                return

    def _hear(self, message: tuple) -> None:
        if message[0] == "done":
            self.summary = message[1]
        elif message[0] == "error":
            self.failure = child.error_from_message(self.label, *message[1:])
            class_name, text = message[1], message[2].lower()
            self.is_echo = class_name.startswith("Dist") or (
                class_name == "RuntimeError" and any(word in text for word in ECHOES)
            )
        elif self.number == 0:
            # All processes log the same.
            logger.log(message[1], "%s", message[2])

    def ask_to_stop(self) -> None:
        """Send SIGTERM, whichever signal the user sent: a second SIGINT would end it without a checkpoint."""
        if self._process.is_alive():
            os.kill(self._process.pid, signal.SIGTERM)

    def end(self) -> None:
        """End it; a process that has returned has some time to clean up."""
        if self.summary is not None:
            self._process.join(GRACE_SECONDS)
        self._process.kill()
        self._process.join()
        self._receiving.close()
        self._process.close()


def _watch(ranks: list[_Rank], work: Work) -> None:
    """Wait until all have returned, or one has failed and the others have had time to report the cause."""
    asked, deadline = False, None
    while waiting := [rank for rank in ranks if not rank.is_over]:
        wait([source for rank in waiting for source in rank.sources], timeout=POLL_SECONDS)
        for rank in waiting:
            rank.listen()
        if work.stop_requested() and not asked:
            asked = True
            for rank in waiting:
                rank.ask_to_stop()
        if deadline is None and any(rank.failure for rank in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return


def _first_cause(failed: list[_Rank]) -> Exception:
    """Return the failure that caused the others."""
    causes = [rank for rank in failed if not rank.is_echo]
    if causes:
        assert causes[0].failure is not None
        return causes[0].failure
    words = str(failed[0].failure).strip().splitlines()
    return EnvironmentFault(
        f"{failed[0].label}: it lost contact with the other processes ({words[0]}). Run the same command again: tuning"
        " resumes at its last checkpoint. If it happens again, use one GPU (place.gpus_per_stage = 1) or"
        ' place.parallel = "layers"'
    )


def _spec(work: Work, number: int, meeting: str) -> dict[str, Any]:
    """Return the arguments of Work for one process, and its environment."""
    spec = {field.name: getattr(work, field.name) for field in fields(work)}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    meant = {name: os.environ[name] for name in INHERITED if name in os.environ}
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if loopback and name not in os.environ:
            meant[name] = loopback
    return spec | {
        "store": str(work.store.root),
        "store_url": work.store.remote.url if isinstance(work.store, CachedRemoteStore) else None,
        "device": "cpu" if work.device == "cpu" else f"cuda:{number}",
        "num_threads": max(1, work.num_threads // work.num_processes),
        "show_progress": work.show_progress and number == 0,
        "rank": number,
        "meeting": meeting,
        "environment": meant,
    }
