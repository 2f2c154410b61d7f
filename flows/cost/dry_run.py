"""A dry run of `flows/crash.py`: lists the stages of runs with their costs; computes nothing, counts nothing twice.

A stage is identified by its arguments and parents, as in the store, so that one that several cells or strategies have
in common is counted once.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from flows.cost.plan_sizes import compressed, depth_of, trained_of
from flows.cost.stage_costs import Cost, StageCosts
from flows.running.arguments import Arguments
from flows.running.pass_limits import run_limits
from flows.running.published_as import published_as
from flows.settings.model import Settings, Strategy
from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.shapes import Shape
from tasks.core.costs.workloads import Workload
from tasks.core.plan.registry import STRATEGIES
from tasks.store.keys import canonical, canonical_json

EMULATORS = ("check", "capture", "single", "iterative_drop", "similarity", "cluster", "emulate", "compress", "distill")
STAGES = (*EMULATORS, "evaluate", "tune", "full_tune", "select", "plug_in", "report")


class Estimate:
    """Accumulates the stages of any number of runs; each is counted once.

    approximate: for each model whose operations are approximate, the reason by its name.
    """

    def __init__(self, precision: str = "bfloat16") -> None:
        self.precision = precision
        self.stages: dict[str, Cost] = {}
        self.num_asked = 0
        self.approximate: dict[str, str] = {}

    def add(self, settings: Settings, shape: Shape, workload: Workload, num_validating: int | None = None) -> None:
        """Add all stages of one run. num_validating: see `StageCosts`."""
        if shape.approximate:
            self.approximate[settings.model.name] = shape.approximate
        precision = self.precision if settings.model.precision == "auto" else settings.model.precision
        _Run(self, settings, shape, StageCosts(settings, shape, workload, precision, num_validating)).all()

    def stage(self, cost: Callable[[], Cost], name: str, **arguments: Any) -> str:
        """Note a stage if it is new, and return its identity."""
        self.num_asked += 1
        key = hashlib.sha256(canonical_json(canonical({"stage": name, **arguments})).encode()).hexdigest()
        if key not in self.stages:
            self.stages[key] = cost()
        return key


class _Run:
    def __init__(self, all_: Estimate, settings: Settings, shape: Shape, stage_costs: StageCosts) -> None:
        self.note, self.settings, self.shape, self.costs = all_.stage, settings, shape, stage_costs
        self.model = {"name": settings.model.name, "revision": settings.model.revision}
        self.inputs = {"model": self.model, "task": settings.task.model_dump()}
        self.arguments = Arguments(settings, stage_costs.precision)
        self.trained = trained_of(settings, shape)

    def all(self) -> None:
        """Note the stages in the order of the flow."""
        self.note(lambda: self.costs.small("check"), "check", **self.inputs, **self.wanted())
        states = self.note(self.costs.capture, "capture", **self.inputs, **self.arguments.capture)
        similar = self.note(self.costs.similarity, "similarity", states=states, **self.arguments.similarity)
        strategies = [self.one_strategy(name, similar) for name in self.settings.strategy]
        found = {"full": self.full_model(), "strategies": strategies, "similarity": similar}
        self.note(lambda: self.costs.small("report"), "report", facts=self.facts(), **found)

    def wanted(self) -> dict[str, Any]:
        """Return what the settings ask of emulators and what is checked with the inputs."""
        distill = self.settings.distill
        text = {"text": distill.data, "block": distill.block, "teacher": distill.teacher} if distill.enabled else {}
        limits = run_limits(self.settings)
        return {"compression": self.settings.compress.compression, "limits": limits, **text}

    def facts(self) -> dict[str, Any]:
        """Return the facts that a report shows beside its stages' results."""
        settings, plan = self.settings, self.settings.plan
        return {
            **self.inputs,
            "precision": self.costs.precision,
            "tuning_seeds": settings.tune.seeds,
            "support_split": settings.support.split,
            "num_kept": plan.num_kept,
            "num_tuned": plan.num_tuned_blocks,
            "published_as": published_as(settings),
        }

    def planned(self, name: Strategy, similar: str) -> dict[str, Any]:
        """Note the stages that only this strategy needs, and return the arguments of the stage that makes its plan."""
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

    def one_strategy(self, name: Strategy, similar: str) -> dict[str, Any]:
        """Note one strategy's stages as in the flow: plan, emulator, its scores, tunings, and the scores of each."""
        chosen = self.planned(name, similar)
        depth = depth_of(chosen, self.shape)
        plan = self.note(lambda: self.costs.small("cluster"), "cluster", **chosen)
        emulator, depth = self.emulator_of(plan, depth)
        found: dict[str, Any] = {"name": name, "plan": plan, "emulator_zero_shot": self.evaluate(depth, emulator)}
        rates = self.arguments.rates
        for seed in self.settings.tune.seeds:
            tunings = [self.arguments.tune(seed, rate) for rate in rates]
            given = {"task": self.inputs["task"], "emulator": emulator}
            tuned = self.at_best_rate("tune", depth, self.trained, tunings, rates, given)
            plugged = self.note(
                lambda: self.costs.plug_in(depth, self.trained),
                "plug_in",
                **{"model": self.model, "plan": plan, "tuned": tuned, **self.arguments.plug_in},
            )
            found[f"seed {seed}"] = [self.evaluate(depth, emulator, tuned), self.evaluate(None, None, plugged)]
        return found

    def emulator_of(self, plan: str, depth: Depth) -> tuple[str, Depth]:
        """Return the emulator, compressed and distilled where the settings ask for it, and its depth."""
        emulator = self.note(lambda: self.costs.emulate(depth), "emulate", model=self.model, plan=plan)
        if self.settings.compress.method != "none":
            cheaper = depth = compressed(depth, self.settings)
            given = {"emulator": emulator, **self.arguments.compress}
            emulator = self.note(lambda: self.costs.compress(cheaper), "compress", **given)
        if self.settings.distill.enabled:
            teacher = self.settings.distill.teacher
            given = {"emulator": emulator, "text": self.settings.distill.data, **self.arguments.distill}
            given |= {"teacher": {"name": teacher, "revision": None} if teacher else self.model}
            emulator = self.note(lambda: self.costs.distill(depth), "distill", **given)
        return emulator, depth

    def full_model(self) -> list[str]:
        """Note the full model's scores, and the tuning of every block where it is enabled."""
        found, rates = [self.evaluate(None)], self.arguments.full_rates
        if not self.settings.full_tune.enabled:
            return found
        num_blocks, tune = self.shape.num_blocks, self.settings.tune
        whole = Trained(best=tune.eval_steps is not None, recompute=tune.gradient_checkpointing)
        self.note(lambda: self.costs.small("cluster"), "cluster", strategy="full", num_blocks=num_blocks)
        for seed in tune.seeds:
            tunings = [self.arguments.full_tune(seed, rate) for rate in rates]
            tuned = self.at_best_rate("full_tune", Depth.whole(num_blocks), whole, tunings, rates, self.inputs)
            found.append(self.evaluate(None, None, tuned))
        return found

    def at_best_rate(
        self,
        stage: str,
        depth: Depth,
        trained: Trained,
        tunings: Sequence[dict[str, Any]],
        rates: Sequence[float],
        given: dict[str, Any],
    ) -> str:
        """Note a tuning at each learning rate; for several, also the copy of the best one's files."""
        tuned = [self.note(lambda: self.costs.tune(stage, depth, trained), stage, **given, **how) for how in tunings]
        if len(tuned) == 1:
            return tuned[0]
        return self.note(lambda: self.costs.select(depth, trained), "select", tunings=tuned, learning_rates=rates)

    def evaluate(self, depth: Depth | None, emulator: str | None = None, tuned: str | None = None) -> str:
        """Note the scores of the full model or of an emulator, untuned or with tuned blocks."""
        given = {**self.inputs, "emulator": emulator, "tuned": tuned, **self.arguments.evaluate}
        return self.note(lambda: self.costs.evaluate(depth), "evaluate", **given)
