"""A run that records lists the stages that a real run submits, and every stage that a flow can submit has a cost."""

import importlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import method
from flows.cost.estimates import estimate_cells, estimate_study
from flows.cost.recording import COSTS, Estimate
from flows.cost.stage_costs import FULL_TUNE
from flows.running.run import Run
from flows.settings.reading import read_settings
from flows.settings.run import Settings
from flows.studies import stages as study_stages
from flows.studies.cells import StudyCell, make_cells_of, read_study
from tasks.data.resolving import resolve_task
from tasks.data.resolving_text import resolve_text
from tasks.engine.runtime import Runtime
from tasks.engine.stage import Stage
from tasks.models.resolving import resolve_model
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref
from tests.flows.commands import DEMO
from tests.store.stages import stage_modules

DISTILL = [f"distill={{enabled=true, data='{DEMO / 'text'}', num_steps=8, warmup_steps=2, block=64}}"]
CHANGES: dict[str, list[str]] = {
    "default": [],
    "one strategy": ["strategy=crash", "tune.seeds=[0]"],
    "compressed": ["compress.method=prune", "compress.ratio=0.5"],
    "low rank": ["compress.method=low_rank", "compress.rank=0.25"],
    "by gradient": ["compress.method=gradot", "compress.rank=0.5", "compress.channels=0.5"],
    "distilled": DISTILL,
    "of little use alone": [*DISTILL, "distill.loss_margin=4", "distill.random_prompt=2", "tune.method=prompt"],
    "both": ["compress.method=low_rank", "compress.rank=0.25", *DISTILL, f"distill.teacher={DEMO / 'model'}"],
    "rates and seeds": ["tune.learning_rates=[1e-4, 1e-3]", "tune.eval_steps=5", "tune.seeds=[3, 4]"],
    "one rate for the full model": [
        *("tune.learning_rates=[1e-4, 1e-3]", "tune.eval_steps=5"),
        "full_tune.learning_rate=1e-5",
    ],
    "their own evidence": ['strategy=["single", "iterative_drop", "spans", "crash", "reverse"]', "plan.share=auto"],
    "linear": ["plan.share=linear", 'strategy=["uniform", "crash"]'],
    "linear, compressed and distilled": [
        "plan.share=linear",
        "compress.method=low_rank",
        "compress.rank=0.25",
        *DISTILL,
    ],
    "harmonizers": [
        *('strategy=["scaleot", "uniform", "fixed"]', "plan.kept=[0, 2, 5, 11]", "plan.tuned=[2, 11]"),
        'plan.share={uniform = "harmonizers", fixed = "none"}',
        *(f"distill.data={DEMO / 'text'}", "harmonizers.rank=4", "harmonizers.share=0.5"),
        *("compress.method=low_rank", "compress.rank=0.5", "compress.parts=attention"),
    ],
    "full model not tuned": ["full_tune.enabled=false"],
    "written out": ["export.plugged_model=true"],
}


class Submitted:
    """Stands in for Prefect: the keys under which the store would have the artifacts of the submitted stages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_asked, self.found, self.names = 0, set[tuple[str, str]](), set[str]()
        monkeypatch.setattr(Stage, "submit", lambda stage, runtime, label="", **given: self.add(stage, label, given))
        monkeypatch.setattr(Run, "as_model", lambda run, made, subfolder="": self.changed(run.model, made.key))

    def add(self, stage: Stage, label: str, arguments: dict[str, Any]) -> Ref:
        self.num_asked += 1
        self.names.add(stage.full_name(label))
        key = stage.key(**arguments)[0]
        self.found.add((stage.name, key))
        return Ref(stage=stage.name, key=key, digest=key)

    def changed(self, model: ModelSource, weights: str) -> ModelSource:
        return model.model_copy(update={"weights": weights})

    @property
    def counts(self) -> Counter[str]:
        return Counter(name for name, _ in self.found)


def real_run(settings: Settings, folder: Path) -> Run:
    """A run as a flow opens it, of inputs that were not checked."""
    model, distill = resolve_model(settings.model.name), settings.distill
    inputs: Any = SimpleNamespace(
        model=model,
        task=resolve_task(settings.task.model_dump()),
        teacher=model if distill.enabled else None,
        text=resolve_text(distill.data) if distill.data else None,
        precision="float32",
        num_parameters=0,
        checked=SimpleNamespace(summary={}),
        held_out={},
    )
    own: Any = None
    return Run(settings, inputs, Runtime(store=str(folder)), own)


def recorded(estimate: Estimate) -> Counter[str]:
    """Number of recorded stages by name, without the check, which a run makes before it submits."""
    counts = Counter(cost.stage for cost in estimate.stages.values())
    tunings = {"tune": counts["tune"] + counts.pop(FULL_TUNE, 0)}
    return Counter({name: count for name, count in (counts | tunings).items() if name != "check" and count})


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_recorded_run_has_the_stages_of_a_real_one(
    changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, submitted = read_settings(DEMO / "settings.toml", changes), Submitted(monkeypatch)
    method.submit_stages(real_run(settings, tmp_path))
    estimate = estimate_cells([({}, settings)])
    assert recorded(estimate) == submitted.counts
    assert estimate.num_asked == submitted.num_asked + 1
    assert estimate.by_name.keys() == submitted.names | {"check"}


STUDIES: dict[str, list[str]] = {
    "the demo's": [],
    "plug-ins": ["study.against=plug_in", "variants="],
    "nothing tuned": ['study.parts=["lens", "weights"]', "variants="],
}


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
def test_a_recorded_study_has_the_stages_of_a_real_one(
    changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, submitted = make_cells_of(*read_study(DEMO / "study.toml", changes)), Submitted(monkeypatch)
    cells = [StudyCell(label, real_run(settings, tmp_path), {}) for label, settings in made]
    for cell in cells:
        cell.run.prefix = cell.label if len(cells) > 1 else ""
    study_stages.submit_stages(cells, cells[0].run)
    estimate = estimate_study(made)
    assert recorded(estimate) == submitted.counts
    assert estimate.num_asked == submitted.num_asked + len(cells)
    assert {name for name in estimate.by_name if not name.startswith("check")} == submitted.names


def all_stages() -> set[str]:
    """Names of the stages of all modules that hold one."""
    modules = map(importlib.import_module, stage_modules())
    return {value.name for module in modules for value in vars(module).values() if isinstance(value, Stage)}


def test_every_stage_has_a_cost() -> None:
    """Except the table of a sweep, which no run submits: only its cells are priced."""
    assert all_stages() == {*COSTS, "collect"}
