"""The stages of runs and what each costs, as in `flows/crash.py`, with nothing computed and nothing counted twice.

A stage is known by its arguments and parents, as in the store: what several cells or strategies have in common is one.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flows.arguments import Arguments
from flows.plan_sizes import depth_of, trained_of
from flows.settings import Settings
from tasks.core import costs, workloads
from tasks.core.costs import Depth, Passes, Trained
from tasks.core.shapes import Shape
from tasks.core.workloads import Workload
from tasks.store.keys import canonical, canonical_json

EMULATORS = ("check", "capture", "similarity", "cluster", "emulate", "compress", "distill")
STAGES = (*EMULATORS, "evaluate", "tune", "full_tune", "select", "plug_in", "report")
# As in flows/arguments.py, where neither steps nor epochs are given.
DEFAULT_EPOCHS = 5
# Manifest, plan, scores and the like beside an artifact's tensors, and a report with its pictures: as the demo's are.
SMALL_BYTES, REPORT_BYTES = 2000, 700_000


@dataclass(frozen=True)
class Cost:
    """One stage. flops: operations on the device; memory: bytes on it at the peak; disk: bytes of the artifact;
    working_disk: bytes that only lie there while it runs.
    """

    stage: str
    flops: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    working_disk: float = 0.0


class Estimate:
    """Accumulates the stages of any number of runs; each is counted once."""

    def __init__(self, precision: str = "bfloat16") -> None:
        self.precision = precision
        self.stages: dict[str, Cost] = {}
        self.num_asked = 0

    def add(self, settings: Settings, shape: Shape, workload: Workload) -> None:
        """All stages of one run."""
        precision = self.precision if settings.model.precision == "auto" else settings.model.precision
        _Run(self, settings, shape, workload, precision).all()

    def stage(self, cost: Callable[[], Cost], name: str, **arguments: Any) -> str:
        """Note a stage, if it is new; its identity."""
        self.num_asked += 1
        key = hashlib.sha256(canonical_json(canonical({"stage": name, **arguments})).encode()).hexdigest()
        if key not in self.stages:
            self.stages[key] = cost()
        return key


class _Run:
    def __init__(self, all_: Estimate, settings: Settings, shape: Shape, workload: Workload, precision: str) -> None:
        self.note, self.settings, self.shape, self.precision = all_.stage, settings, shape, precision
        task = settings.task
        self.workload = workload.limited(task.num_train, task.num_validation, task.num_test)
        self.model = {"model": settings.model.name, "revision": settings.model.revision}
        self.inputs = {**self.model, "task": task.model_dump()}
        self.arguments = Arguments(settings, precision)

    def all(self) -> None:
        """The stages in the order of the flow."""
        self.note(lambda: Cost("check", disk=SMALL_BYTES), "check", **self.inputs)
        states = self.note(self.capture, "capture", **self.inputs, **self.arguments.capture)
        similar = self.note(self.similarity, "similarity", states=states, **self.arguments.similarity)
        for name in self.settings.strategy:
            self.one_strategy(name, similar)
        self.full_model()
        everything = self.settings.model_dump(exclude={"place"})
        self.note(lambda: Cost("report", disk=REPORT_BYTES), "report", settings=everything)

    def one_strategy(self, name: str, similar: str) -> None:
        """As in the flow: plan, emulator, its scores, tunings, and the scores that follow from each."""
        chosen = self.arguments.cluster(name, self.shape.num_blocks, similar)
        depth = depth_of(chosen)
        plan = self.note(lambda: Cost("cluster", disk=SMALL_BYTES), "cluster", **chosen)
        emulator = self.note(lambda: self.emulate(depth), "emulate", **self.model, plan=plan)
        emulator = self.changed(emulator, depth)
        self.evaluate(depth.positions, costs.emulator_parameters(self.shape, depth), emulator)
        trained = trained_of(self.settings, self.shape)
        for tunings in self.tunings():
            tuned = [
                self.note(lambda: self.tune("tune", depth, trained), "tune", **self.inputs, emulator=emulator, tune=one)
                for one in tunings
            ]
            tuned = self.selected(tuned, depth, trained)
            self.evaluate(depth.positions, costs.emulator_parameters(self.shape, depth), emulator, tuned)
            plugged = self.note(lambda: self.plug_in(depth), "plug_in", tuned=tuned, **self.arguments.plug_in)
            self.evaluate(self.shape.num_blocks, self.shape.parameters, None, [plugged])

    def changed(self, emulator: str, depth: Depth) -> str:
        """The emulator as it is compressed and distilled, where the settings ask for that."""
        groups = self.settings.model_dump()
        compress, distill = groups.get("compress") or {}, groups.get("distill") or {}
        if compress.get("method", "none") != "none":
            emulator = self.note(
                lambda: replace(self.emulate(depth), stage="compress"), "compress", emulator=emulator, how=compress
            )
        if distill.get("enabled"):
            emulator = self.note(lambda: self.distill(depth, distill), "distill", emulator=emulator, how=distill)
        return emulator

    def full_model(self) -> None:
        """The full model's scores, and every block tuned where that is asked for."""
        num_blocks, parameters = self.shape.num_blocks, self.shape.parameters
        self.evaluate(num_blocks, parameters, None)
        if not self.settings.full_tune.enabled:
            return
        depth = Depth(num_blocks, num_blocks, num_blocks)
        best = Trained(best=self.settings.tune.eval_steps is not None)
        self.note(lambda: Cost("cluster", disk=SMALL_BYTES), "cluster", strategy="full", num_blocks=num_blocks)
        rate = self.settings.full_tune.learning_rate
        for tunings in self.tunings((rate,) if rate else None):
            tuned = [
                self.note(lambda: self.tune("full_tune", depth, best), "full_tune", **self.inputs, tune=one)
                for one in tunings
            ]
            self.evaluate(num_blocks, parameters, None, self.selected(tuned, depth, best))

    def selected(self, tunings: list[str], depth: Depth, trained: Trained) -> list[str]:
        """Of several learning rates the best one's files, once more."""
        if len(tunings) == 1:
            return tunings
        disk = costs.WIDE * costs.trained_parameters(self.shape, depth, trained) + SMALL_BYTES
        return [self.note(lambda: Cost("select", disk=disk), "select", tunings=tunings)]

    def tunings(self, rates: tuple[float, ...] | None = None) -> list[list[dict[str, Any]]]:
        """What tells one tuning from the others: for each seed one for each learning rate."""
        tune = self.settings.tune.model_dump(exclude={"seeds", "learning_rate", "learning_rates", "checkpoint_steps"})
        rates = rates or getattr(self.settings.tune, "learning_rates", ()) or (self.settings.tune.learning_rate,)
        return [
            [{**tune, "seed": seed, "rate": rate, "precision": self.precision} for rate in rates]
            for seed in self.settings.tune.seeds
        ]

    def capture(self) -> Cost:
        """The support set through all blocks."""
        support = self.settings.support
        rows = self.workload.train if support.split == "train" else self.workload.validation
        rows = replace(rows, answers=0.0).limited(support.num_rows)
        passes = workloads.sorted_passes(rows, self.shape.context, support.max_tokens)
        return Cost(
            "capture",
            costs.forward_flops(self.shape, self.shape.num_blocks, passes),
            costs.forward_bytes(self.shape, self.shape.parameters, passes, self.precision),
            costs.states_bytes(self.shape, rows.num_rows) + SMALL_BYTES,
        )

    def similarity(self) -> Cost:
        """All measures between all states; on the CPU."""
        support, states = self.settings.support, self.shape.num_blocks + 1
        rows = self.workload.train if support.split == "train" else self.workload.validation
        count = min(support.num_rows, rows.num_rows)
        disk = costs.WIDE * ((costs.NUM_CKA + 1) * states**2 + self.shape.num_blocks)
        return Cost("similarity", costs.similarity_flops(self.shape, count), 0.0, disk + SMALL_BYTES)

    def emulate(self, depth: Depth) -> Cost:
        """Bytes of the kept blocks and of all outside the blocks, copied."""
        disk = self.shape.stored_bytes * costs.emulator_parameters(self.shape, depth)
        return Cost("emulate", disk=disk + SMALL_BYTES)

    def evaluate(self, positions: int, num_parameters: float, emulator: str | None, tuned: list | None = None) -> None:
        """The scored rows through so many blocks."""

        def cost() -> Cost:
            wanted = self.arguments.evaluate["max_tokens"]
            passes = workloads.sorted_passes(self.workload.scored, self.shape.context, wanted)
            flops = costs.forward_flops(self.shape, positions, passes)
            memory = costs.forward_bytes(self.shape, num_parameters, passes, self.precision)
            return Cost("evaluate", flops, memory, SMALL_BYTES)

        self.note(cost, "evaluate", **self.inputs, emulator=emulator, tuned=tuned, **self.arguments.evaluate)

    def tune(self, stage: str, depth: Depth, trained: Trained) -> Cost:
        """All steps and validations of one tuning."""
        settings, context = self.settings.tune, self.shape.context
        epoch, per_epoch = workloads.training_passes(
            self.workload.train, context, settings.batch_size, settings.max_tokens
        )
        num_steps = settings.num_steps or (settings.num_epochs or DEFAULT_EPOCHS) * per_epoch
        passes = epoch.times(num_steps / per_epoch)
        flops = costs.forward_flops(self.shape, depth.positions, passes)
        flops += costs.backward_flops(self.shape, depth, passes, trained)
        if settings.eval_steps:
            checks = workloads.sorted_passes(self.workload.validation, context, settings.max_tokens)
            checks = checks.times(-(-num_steps // settings.eval_steps))
            flops += costs.forward_flops(self.shape, depth.positions, checks)
        count = costs.trained_parameters(self.shape, depth, trained)
        return Cost(
            stage,
            flops,
            costs.tune_bytes(self.shape, depth, passes, self.precision, trained),
            costs.WIDE * count + SMALL_BYTES,
            costs.checkpoint_bytes(count, trained.best),
        )

    def distill(self, depth: Depth, how: dict[str, Any]) -> Cost:
        """Steps on generic text: the teacher forward, the emulator forward and, for its frozen blocks, backward."""
        block, rows, num_steps = min(how["block"], self.shape.context), how["batch_size"], how["num_steps"]
        tokens = float(rows * block * num_steps)
        # Rows of one length: the largest pass is one batch, or what of it fits.
        largest = min(rows * block, max(block, how.get("max_tokens") or self.settings.tune.max_tokens))
        passes = Passes(tokens, tokens * block, tokens, largest, largest)
        trained = Trained(tuned=False, frozen=True)
        flops = costs.forward_flops(self.shape, self.shape.num_blocks, replace(passes, answers=0))
        flops += costs.forward_flops(self.shape, depth.positions, passes)
        flops += costs.backward_flops(self.shape, replace(depth, lowest=0), passes, trained)
        memory = costs.tune_bytes(self.shape, depth, passes, self.precision, trained)
        memory += costs.FORMATS[self.precision] * self.shape.parameters
        count = costs.trained_parameters(self.shape, depth, trained)
        disk = self.shape.stored_bytes * costs.emulator_parameters(self.shape, depth) + SMALL_BYTES
        return Cost("distill", flops, memory, disk, costs.checkpoint_bytes(count, best=False))

    def plug_in(self, depth: Depth) -> Cost:
        """The tuned blocks in the format in which the model is loaded; with export the full model beside them."""
        exported = self.shape.parameters if self.settings.export.plugged_model else 0
        return Cost("plug_in", disk=self.shape.loaded_bytes * (depth.tuned * self.shape.block + exported) + SMALL_BYTES)
