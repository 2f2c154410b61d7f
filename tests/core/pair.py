"""Two processes of one process group over gloo, kept for many cases; one error in either is raised here."""

import multiprocessing
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60
_context = multiprocessing.get_context("spawn")


class Pair:
    """`run(function, ...)` calls `function(rank, ...)` in both and returns what each of them returned."""

    def __init__(self, folder: Path, size: int = 2) -> None:
        self._pipes, self._processes = [], []
        for rank in range(size):
            here, there = _context.Pipe()
            process = _context.Process(target=_serve, args=(there, str(folder / "meeting"), rank, size), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each returned; an assertion fails where one raised or did not answer in time."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(SECONDS), f"process {rank} has not answered within {SECONDS} s"
            ok, answer = pipe.recv()
            assert ok, f"process {rank}: {answer}"
            answers.append(answer)
        return answers

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _serve(pipe: Any, meeting: str, rank: int, size: int) -> None:
    import torch

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(seconds=SECONDS)
    )
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((True, function(rank, *arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two processes for the tests of one module."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        both = Pair(Path(folder))
        yield both
        both.close()
