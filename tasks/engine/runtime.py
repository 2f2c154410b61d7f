"""The context that the stages of one run share: store, cores, tracking and processes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.core.errors import InterruptedRun
from tasks.engine.child_process import Children
from tasks.engine.memory import Need
from tasks.engine.places import Stopped
from tasks.engine.resources import Resources, usable_cores, visible_gpus
from tasks.store.artifacts import Artifact, Ref, Store
from tasks.store.remote.store import open_store


class Runtime(BaseModel):
    """Settings that a stage needs to run but that never change its result; they are in no key.

    store: folder of the store. store_url: the object store for which the folder is the cache, if there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    store_url: str | None = None
    run_id: str = "local"
    cores_per_stage: int = 1
    gpus_per_stage: int = 1
    parallel: str = "layers"
    stream_blocks: str = "auto"
    show_progress: bool = False

    def open_store(self) -> Store:
        """Open the store of this run."""
        return open_store(self.store, self.store_url)


class NoTracking:
    """Tracking that does nothing: stages run, metrics stay beside the artifacts."""

    def stage_started(self, stage: str, label: str, key: str) -> None:
        """Report that a stage starts to compute."""

    def stage_metrics(self, stage: str, key: str, path: Path) -> None:
        """Report that the metrics file at `path` may have new lines."""

    def stage_finished(self, stage: str, label: str, artifact: Artifact, cached: bool) -> None:
        """Report that a stage has its artifact, computed or found."""


def no_estimate(name: str, stopped: Stopped) -> Need | None:
    """Return None: what a stage needs, where nobody has estimated it."""
    return None


@dataclass
class RunContext:
    """Objects that the stages of one run share inside this process.

    expected: returns the memory that a stage needs, by its full name, or None; takes whether the run was stopped as
    well, since the first call estimates.
    """

    resources: Resources
    tracking: Any = field(default_factory=NoTracking)
    used: list[Ref] = field(default_factory=list)
    computed: list[Ref] = field(default_factory=list)
    children: Children = field(default_factory=Children)
    expected: Callable[[str, Stopped], Need | None] = no_estimate


_shared: dict[str, RunContext] = {}
_over: set[str] = set()
_is_stopped = False
_shared_lock = threading.Lock()


def shared(runtime: Runtime) -> RunContext:
    """Return the shared objects of the runtime's run, made on first use.

    Raises:
        InterruptedRun: when the run is over. Prefect's threads still start stages then whose parents were ready in
        time.
    """
    with _shared_lock:
        if runtime.run_id in _over:
            raise InterruptedRun("the run is over: nothing further begins")
        if runtime.run_id not in _shared:
            _shared[runtime.run_id] = RunContext(Resources(usable_cores(), visible_gpus()))
        return _shared[runtime.run_id]


@contextmanager
def sharing(runtime: Runtime, context: RunContext, once: bool = False) -> Iterator[RunContext]:
    """Let the stages of one run use `context` inside the block. once: no stage of the run starts after it.

    Raises:
        InterruptedRun: when this process was asked to stop.
    """
    with _shared_lock:
        if _is_stopped:
            raise InterruptedRun("this process is asked to stop: no further run begins")
        _shared[runtime.run_id] = context
        _over.discard(runtime.run_id)
    try:
        yield context
    finally:
        with _shared_lock:
            _shared.pop(runtime.run_id, None)
            if once:
                _over.add(runtime.run_id)


@contextmanager
def everything_stopped(number: int) -> Iterator[None]:
    """Stop all computing stages of every run of this process; no further run starts inside the block."""
    global _is_stopped
    with _shared_lock:
        _is_stopped, runs = True, list(_shared.values())
    try:
        for context in runs:
            context.children.ask_to_stop(number)
        for context in runs:
            context.children.stop(number)
        yield
    finally:
        with _shared_lock:
            _is_stopped = False
