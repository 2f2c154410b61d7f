"""The stages of runs and what each costs, as in `flows/crash.py`, with nothing computed and nothing counted twice.

A stage is known by its arguments and parents, as in the store: what several cells or strategies have in common is one.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flows.arguments import Arguments
from flows.plan_sizes import depth_of, trained_of
from flows.settings import Settings, Strategy
from flows.stage_costs import Cost, StageCosts
from tasks.core import costs
from tasks.core.costs import Depth, Trained
from tasks.core.shapes import Shape
from tasks.core.strategies import STRATEGIES
from tasks.core.workloads import Workload
from tasks.store.keys import canonical, canonical_json

EMULATORS = ("check", "capture", "single", "iterative_drop", "similarity", "cluster", "emulate", "compress", "distill")
STAGES = (*EMULATORS, "evaluate", "tune", "full_tune", "select", "plug_in", "report")


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
        self.costs = StageCosts(settings, shape, workload, precision)
        self.model = {"model": settings.model.name, "revision": settings.model.revision}
        self.inputs = {**self.model, "task": settings.task.model_dump()}
        self.arguments = Arguments(settings, precision)

    def all(self) -> None:
        """The stages in the order of the flow."""
        self.note(lambda: self.costs.small("check"), "check", **self.inputs)
        states = self.note(self.costs.capture, "capture", **self.inputs, **self.arguments.capture)
        similar = self.note(self.costs.similarity, "similarity", states=states, **self.arguments.similarity)
        for name in self.settings.strategy:
            self.one_strategy(name, similar)
        self.full_model()
        everything = self.settings.model_dump(exclude={"place"})
        self.note(lambda: self.costs.small("report"), "report", settings=everything)

    def planned(self, name: Strategy, similar: str) -> dict[str, Any]:
        """Arguments of the stage that makes the plan, after the stages that only this strategy looks at."""
        evidence, num_blocks = dict[str, Any](), self.shape.num_blocks
        if (needs := STRATEGIES[name].needs) == "single_clusters":
            states = self.note(self.costs.single, "single", **self.inputs, **self.arguments.single)
            given = {"states": states, **self.arguments.similarity}
            evidence["similarity"] = self.note(self.costs.similarity, "similarity", **given)
        elif needs == "dropped":
            how = {**self.inputs, **self.arguments.iterative_drop(num_blocks)}
            evidence["dropped"] = self.note(lambda: self.costs.iterative_drop(how["num_kept"]), "iterative_drop", **how)
        elif needs != "num_blocks":
            evidence["similarity"] = similar
        return self.arguments.cluster(name, num_blocks, evidence)

    def one_strategy(self, name: Strategy, similar: str) -> None:
        """As in the flow: plan, emulator, its scores, tunings, and the scores that follow from each."""
        chosen = self.planned(name, similar)
        depth = depth_of(chosen)
        plan = self.note(lambda: self.costs.small("cluster"), "cluster", **chosen)
        emulator = self.note(lambda: self.costs.emulate(depth), "emulate", **self.model, plan=plan)
        emulator = self.changed(emulator, depth)
        self.evaluate(depth.positions, costs.emulator_parameters(self.shape, depth), emulator)
        trained = trained_of(self.settings, self.shape)
        for tunings in self.tunings(self.arguments.rates):
            tuned = [
                self.note(
                    lambda: self.costs.tune("tune", depth, trained), "tune", **self.inputs, emulator=emulator, tune=one
                )
                for one in tunings
            ]
            tuned = self.selected(tuned, depth, trained)
            self.evaluate(depth.positions, costs.emulator_parameters(self.shape, depth), emulator, tuned)
            plugged = self.note(lambda: self.costs.plug_in(depth), "plug_in", tuned=tuned, **self.arguments.plug_in)
            self.evaluate(self.shape.num_blocks, self.shape.parameters, None, [plugged])

    def changed(self, emulator: str, depth: Depth) -> str:
        """The emulator as it is compressed and distilled, where the settings ask for that."""
        groups = self.settings.model_dump()
        compress, distill = groups.get("compress") or {}, groups.get("distill") or {}
        if compress.get("method", "none") != "none":
            emulator = self.note(
                lambda: replace(self.costs.emulate(depth), stage="compress"),
                "compress",
                emulator=emulator,
                how=compress,
            )
        if distill.get("enabled"):
            emulator = self.note(lambda: self.costs.distill(depth, distill), "distill", emulator=emulator, how=distill)
        return emulator

    def full_model(self) -> None:
        """The full model's scores, and every block tuned where that is asked for."""
        num_blocks, parameters = self.shape.num_blocks, self.shape.parameters
        self.evaluate(num_blocks, parameters, None)
        if not self.settings.full_tune.enabled:
            return
        depth = Depth(num_blocks, num_blocks, num_blocks)
        best = Trained(best=self.settings.tune.eval_steps is not None)
        self.note(lambda: self.costs.small("cluster"), "cluster", strategy="full", num_blocks=num_blocks)
        for tunings in self.tunings(self.arguments.full_rates):
            tuned = [
                self.note(lambda: self.costs.tune("full_tune", depth, best), "full_tune", **self.inputs, tune=one)
                for one in tunings
            ]
            self.evaluate(num_blocks, parameters, None, self.selected(tuned, depth, best))

    def selected(self, tunings: list[str], depth: Depth, trained: Trained) -> list[str]:
        """Of several learning rates the best one's files, once more."""
        if len(tunings) == 1:
            return tunings
        return [self.note(lambda: self.costs.select(depth, trained), "select", tunings=tunings)]

    def evaluate(self, positions: int, num_parameters: float, emulator: str | None, tuned: list | None = None) -> None:
        """The scores of the model or of an emulator, as it is or with tuned blocks."""
        given = {**self.inputs, "emulator": emulator, "tuned": tuned, **self.arguments.evaluate}
        self.note(lambda: self.costs.evaluate(positions, num_parameters), "evaluate", **given)

    def tunings(self, rates: tuple[float, ...]) -> list[list[dict[str, Any]]]:
        """What tells one tuning from the others: for each seed one for each learning rate."""
        tune = self.settings.tune.model_dump(exclude={"seeds", "learning_rate", "learning_rates", "checkpoint_steps"})
        return [
            [{**tune, "seed": seed, "rate": rate, "precision": self.precision} for rate in rates]
            for seed in self.settings.tune.seeds
        ]
