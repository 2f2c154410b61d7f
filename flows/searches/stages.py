"""The stages of a search for the best plan within a limit of disclosure.

model, task ─ capture ─ similarity ─ cluster ─ proxies ─ emulate ─ tune ─ plug_in ─ validate ─ frontier
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flows.method import changes_frozen_weights, emulator_of, planned, plugged_of, replacements_of, tunings_of
from flows.running.base_run import BaseRun
from flows.searches.candidates import make_candidates, sizes_of
from flows.searches.trials import Trial, require_one
from flows.settings.kinds import SearchSettings
from flows.settings.tables import Search
from tasks.capture import capture
from tasks.proxies import proxies
from tasks.search_report import frontier
from tasks.similarity import similarity
from tasks.validate import validate

if TYPE_CHECKING:
    from tasks.core.costs.sizes import Sizes

TakePlans = Callable[[list[Trial], "Sizes", float], None]
Pick = Callable[[list[Trial], Search], list[Trial]]


def submit_stages(run: BaseRun[SearchSettings], take_plans: TakePlans, pick: Pick) -> Any:
    """Submit every stage of a search; return the result of the last one, the table.

    take_plans: leaves out trials by their plans; pick: returns the trials to tune.
    """
    search, sizes = run.settings.search, sizes_of(run.model)
    trials = [Trial(candidate, run) for candidate in make_candidates(run.settings, sizes)]
    states = run(capture, model=run.model, task=run.task, **run.arguments.capture)
    similar = run(similarity, states=states, **run.arguments.similarity)
    full = run(validate, "full", model=run.model, task=run.task, **run.arguments.evaluate)
    for trial in trials:
        if not trial.reason:
            trial.found["plan"] = make_plan(trial, similar)
    take_plans(trials, sizes, search.max_disclosed)
    for trial in trials:
        if not trial.reason:
            trial.found["proxies"] = compare(trial)
    tried = pick(trials, search)
    for trial in tried:
        trial.found |= measure(trial)
    for trial in trials:
        trial.settle()
    require_one(tried)
    facts = {**run.facts, "max_disclosed": search.max_disclosed, "by": search.by}
    return run(frontier, facts=facts, full=full, trials=[trial.described() for trial in trials])


def make_plan(trial: Trial, similar: Any) -> Any:
    """Make the plan of this combination."""
    (strategy,) = trial.run.settings.strategy
    return planned(trial.run, strategy, similar, trial.name)


def compare(trial: Trial) -> Any:
    """Compare the emulator that would be handed out with the full model, on the model owner's text."""
    run, plan = trial.run, trial.found["plan"]
    (strategy,) = run.settings.strategy
    inputs = {"model": run.model, "task": run.task, "plan": plan}
    if changes_frozen_weights(run, strategy):
        inputs["emulator"] = _emulator(trial)
    return run(proxies, trial.name, **inputs, **run.arguments.proxies)


def _emulator(trial: Trial) -> Any:
    run, plan, name = trial.run, trial.found["plan"], trial.name
    (strategy,) = run.settings.strategy
    return emulator_of(run, strategy, plan, replacements_of(run, strategy, plan, name), name)


def measure(trial: Trial) -> dict[str, Any]:
    """Tune the emulator, plug its blocks in, and compute the validation loss of both for each tuning seed."""
    run, name, plan = trial.run, trial.name, trial.found["plan"]
    inputs = {"model": run.model, "task": run.task, **run.arguments.evaluate}
    emulator = _emulator(trial)
    tuned = tunings_of(run, name, plan, emulator)
    plugged = plugged_of(run, name, plan, tuned)
    emulator_tuned = [
        run(validate, f"{name} emulator tuned, {seed}", **inputs, emulator=emulator, tuned=blocks)
        for seed, blocks in run.by_seed(tuned)
    ]
    plugged_in = [
        run(validate, f"{name} plugged in, {seed}", **inputs, tuned=blocks) for seed, blocks in run.by_seed(plugged)
    ]
    return {"emulator": emulator, "emulator_tuned": emulator_tuned, "plugged_in": plugged_in}
