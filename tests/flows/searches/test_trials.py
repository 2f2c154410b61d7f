"""Candidates on their way through a search: left out for a reason of their own, the others untouched."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flows.searches.candidates import Candidate
from flows.searches.trials import Trial, picked, require_one, take_plans
from flows.settings.kinds import SearchSettings
from tasks.core.costs.sizes import Sizes
from tasks.core.errors import DivergedError, EnvironmentFault, InputError
from tasks.core.plan.layout import Plan, fixed_plan
from tasks.engine.runtime import Runtime
from tasks.store.artifacts import Ref, Store
from tasks.store.keys import canonical_json

SIZES = Sizes((10, 10, 40, 10), 30)
SETTINGS = SearchSettings.model_validate({"model": {"name": "m"}, "task": {"name": "t"}, "plan": {"num_kept": 4}})


@dataclass
class Waiting:
    """Stands in for a run: its stages end well, or with an error."""

    runtime: Runtime
    error: Exception | None = None

    def changed(self, settings: SearchSettings) -> "Waiting":
        return Waiting(self.runtime)

    def wait(self) -> None:
        if self.error:
            raise self.error


@dataclass
class Future:
    """Stands in for a stage's result."""

    ref: Ref

    def result(self) -> Ref:
        return self.ref


@dataclass
class Trials:
    """Makes trials whose plans lie in a store."""

    folder: Path
    made: list[Trial] = field(default_factory=list)

    def add(self, name: str, plan: Plan | None = None, **found: Any) -> Trial:
        run: Any = Waiting(Runtime(store=str(self.folder)))
        trial = Trial(Candidate(name, {}, SETTINGS, 0.5), run)
        trial.found |= found
        if plan:
            trial.found["plan"] = Future(self._written(name, plan))
        self.made.append(trial)
        return trial

    def _written(self, name: str, plan: Plan) -> Ref:
        store, inputs = Store(self.folder), {"name": name}
        key = hashlib.sha256(canonical_json(inputs).encode()).hexdigest()
        with store.publishing("cluster", key) as out:
            (out / "plan.json").write_text(plan.to_json())
            return store.publish("cluster", key, out, inputs).ref


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)


def proxies(cosine: float) -> Future:
    numbers = {"gradient_cosine": cosine, "kl": 1 - cosine, "state_error": 1 - cosine}
    return Future(Ref(stage="proxies", key=str(cosine), digest=str(cosine), summary=numbers))


def test_what_runs_the_same_is_tried_once_and_blocks_are_weighed(trials: Trials) -> None:
    first = trials.add("first", fixed_plan(4, [0, 1], [0]))
    again = trials.add("again", fixed_plan(4, [0, 1], [0]))
    shared = trials.add("shared", fixed_plan(4, [0, 1], [0], share="all"))
    heavy = trials.add("heavy", fixed_plan(4, [0, 2], [0]))
    take_plans(Store(trials.folder), trials.made, SIZES, 0.6)
    assert [trial.reason for trial in (first, again, shared)] == [None, "the same plan as first", None]
    assert first.disclosed == shared.disclosed == 0.5
    assert heavy.disclosed == 0.8
    assert heavy.reason == "discloses 80.0% of the parameters, more than search.max_disclosed = 60.0%"
    assert heavy.found == again.found == {}


def test_a_diverged_tuning_leaves_the_others(trials: Trials) -> None:
    good, bad = trials.add("good", emulator=1), trials.add("bad", emulator=2)
    bad.run.error = DivergedError("the loss is not finite at step 3")
    for trial in (good, bad):
        trial.settle()
    assert (good.reason, good.found) == (None, {"emulator": 1})
    assert bad.described()["reason"] == "the loss is not finite at step 3"
    assert "emulator" not in bad.described()
    require_one([good, bad])
    with pytest.raises(InputError, match=r"the first of 1, bad: the loss is not finite at step 3"):
        require_one([bad])


def test_a_full_disk_ends_the_search(trials: Trials) -> None:
    trial = trials.add("one", emulator=1)
    trial.run.error = EnvironmentFault("no space left")
    with pytest.raises(EnvironmentFault):
        trial.settle()


def test_estimated_takes_the_best_by_proxies_and_measured_takes_all(trials: Trials) -> None:
    for name, cosine in {"low": 0.1, "high": 0.9, "middle": 0.5}.items():
        trials.add(name, proxies=proxies(cosine))
    broken = trials.add("broken", proxies=proxies(0.99))
    broken.run.error = InputError("kl is not finite")
    search = SETTINGS.search.model_copy(update={"by": "estimated", "num_measured": 2})
    assert [trial.name for trial in picked(trials.made, search)] == ["high", "middle"]
    assert broken.reason == "kl is not finite"
    assert [trial.name for trial in picked(trials.made, SETTINGS.search)] == ["low", "high", "middle"]
