"""The decorator that makes a function a stage: keyed, cached, computed in a child, tracked, one Prefect task."""

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.core.errors import StageKilledError
from tasks.engine.machine_memory import num_memory_kills
from tasks.engine.resources import Allocation
from tasks.engine.runtime import RunContext, Runtime, shared
from tasks.engine.work import Work, note_kill
from tasks.store.artifacts import Artifact, Ref, Store
from tasks.store.keys import stage_key
from tasks.store.metrics import METRICS_FILE
from tasks.store.remote.filesystem import credentials

logger = logging.getLogger(__name__)


class Stage:
    """One stage: `compute` is the plain function, `run` the cached one, `submit` the Prefect task."""

    def __init__(
        self, compute: Callable[..., Mapping[str, Any]], packages: Sequence[str], cores: str, gpu: bool
    ) -> None:
        self.compute = compute
        self.name = compute.__name__
        self.packages = tuple(packages)
        self.cores = cores
        self.gpu = gpu
        self.__doc__ = inspect.getdoc(compute)
        self._task: Any = None

    def key(self, **arguments: Any) -> tuple[str, dict]:
        """Return the key of the artifact for these arguments, and the key's inputs. Defaults count as if given."""
        return stage_key(self.name, self.compute.__module__, self.with_defaults(**arguments), self.packages)

    def with_defaults(self, **arguments: Any) -> dict[str, Any]:
        """Return these arguments and the defaults of the others.

        Raises:
            TypeError: when an argument is missing or unknown.
        """
        bound = inspect.signature(self.compute).bind(None, **arguments)
        bound.apply_defaults()
        return dict(list(bound.arguments.items())[1:])

    def full_name(self, label: str) -> str:
        """Return the stage's name with its label, as both UIs and the log show it."""
        return f"{self.name} · {label}" if label else self.name

    def run(self, runtime: Runtime, label: str = "", **arguments: Any) -> Ref:
        """Return the artifact's reference, found or computed, without Prefect."""
        return self._produce(runtime, label, arguments)[0]

    def submit(self, runtime: Runtime, label: str = "", **arguments: Any) -> Any:
        """Return a Prefect future of the artifact's reference; the task waits for futures among the arguments."""
        return self.task.with_options(task_run_name=self.full_name(label)).submit(runtime, label, **arguments)

    @property
    def task(self) -> Any:
        """The Prefect task, made on first use so that stages can be imported without Prefect."""
        if self._task is None:
            from prefect import task
            from prefect.cache_policies import NO_CACHE

            def run_stage(runtime: Runtime, label: str, **arguments: Any) -> Any:
                ref, cached = self._produce(runtime, label, arguments)
                return _cached_state(ref, self.full_name(label)) if cached else ref

            decorate = task(name=self.name, description=self.__doc__, cache_policy=NO_CACHE, persist_result=False)
            self._task = decorate(run_stage)
        return self._task

    def _produce(self, runtime: Runtime, label: str, arguments: dict[str, Any]) -> tuple[Ref, bool]:
        store, context, begun = runtime.open_store(), shared(runtime), time.monotonic()
        key, inputs = self.key(**arguments)
        artifact, cached = store.find(self.name, key), True
        if artifact is None:
            with store.lock(self.name, key, context.children.stopped):
                artifact = store.find(self.name, key)
                if artifact is None:
                    artifact, cached = self._compute(store, context, runtime, label, key, inputs, arguments), False
        context.used.append(artifact.ref)
        if cached:
            store.touch(artifact)
        else:
            context.computed.append(artifact.ref)
        with store.with_metrics(artifact) as shown:
            context.tracking.stage_finished(self.name, label, shown, cached)
        if not cached:
            # For a cached stage, Prefect's own log line is enough: see _cached_state.
            logger.info("%s: computed in %.1f s (%s)", self.full_name(label), time.monotonic() - begun, key[:12])
        return artifact.ref, cached

    def _compute(
        self, store: Store, context: RunContext, runtime: Runtime, label: str, key: str, inputs: dict, arguments: dict
    ) -> Artifact:
        context.tracking.stage_started(self.name, label, key)
        cores = context.resources.cores if self.cores == "all" else runtime.cores_per_stage
        gpus = runtime.gpus_per_stage if self.gpu else 0
        name = self.full_name(label)
        needed = context.expected(name, context.children.stopped)
        reserved = int(needed.main) if needed else None
        fitting = {
            "streamed": needed.streamed if needed else runtime.stream_blocks == "always",
            "fitting_tokens": needed.pass_tokens if needed else 0,
        }
        scratch = store.work_folder(key)
        kills = 0
        try:
            with (
                context.resources.take(cores, gpus, context.children.stopped, name, reserved) as allocation,
                store.publishing(self.name, key) as out,
            ):
                kills = num_memory_kills()
                work = self._work(store, runtime, label, out, scratch, allocation) | fitting
                watch = lambda: context.tracking.stage_metrics(self.name, key, scratch / METRICS_FILE)  # noqa: E731
                function = self.compute.__module__, self.name
                summary = context.children.run(function, arguments, work, watch, allocation.started)
                _keep_metrics(store, out, scratch)
                artifact = store.publish(self.name, key, out, inputs, list(_parents(arguments)), summary)
        except BaseException as error:
            with suppress(OSError):
                if isinstance(error, StageKilledError) and num_memory_kills() > kills:
                    note_kill(scratch)
                scratch.rmdir()  # fails, and so keeps the folder, if it has a checkpoint or the note
            raise
        store.forget_work(scratch)
        return artifact

    def _work(
        self, store: Store, runtime: Runtime, label: str, out: Path, scratch: Path, allocation: Allocation
    ) -> dict[str, Any]:
        environment = (
            allocation.environment() if allocation.gpus or not self.gpu else {"OMP_NUM_THREADS": str(allocation.cores)}
        )
        if runtime.store_url:
            environment |= credentials()
        return {
            "out": out,
            "scratch": scratch,
            "store": str(store.root),
            "store_url": runtime.store_url,
            "label": f"{self.name} {label}".strip(),
            "device": allocation.device,
            "num_threads": allocation.cores,
            "parallel": runtime.parallel,
            # Without GPUs, use as many processes on the CPU.
            "num_processes": 1 if runtime.parallel == "layers" else len(allocation.gpus) or runtime.gpus_per_stage,
            "show_progress": runtime.show_progress,
            "environment": environment,
        }


def stage_of(full_name: str) -> str:
    """Return the name of the stage in a full name."""
    return full_name.split(" · ")[0]


def stage(*, packages: Sequence[str], cores: str = "one", gpu: bool = False) -> Callable[[Callable], Stage]:
    """Make a function `name(work, **arguments) -> summary` a stage.

    packages: distributions whose version changes the result and so belongs to the key.
    cores: "one" for the run's cores per stage, "all" for the whole machine.
    gpu: whether the stage computes on a GPU if there is one.
    """
    return lambda compute: Stage(compute, packages, cores, gpu)


def _keep_metrics(store: Store, out: Path, scratch: Path) -> None:
    Work(out, scratch, store).keep_metrics()


def _parents(value: Any) -> Iterable[Ref]:
    """Yield every artifact reference among the arguments."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _parents(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _parents(part)


def _cached_state(ref: Ref, name: str) -> Any:
    from prefect.states import Completed

    return Completed(name="Cached", message=f"found {name} ({ref.key[:12]}) in the store", data=ref)
