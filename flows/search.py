"""Search for the best plan within a limit of disclosure, by loss on the validation rows of a task.

model, task ─ capture ─ similarity ─ cluster ─ proxies ─ emulate ─ tune ─ plug_in ─ validate ─ frontier

A repeated search continues, since finished stages are found in the store. Nothing here reads the scored split.
"""

from typing import Any

from prefect import flow

from flows.crash import RUNNER, emulator_of, planned, plugged_of, tunings_of
from flows.running.pass_limits import search_limits
from flows.running.run import run_name, started
from flows.running.show import show_search
from flows.searches.candidates import combinations, make_candidates, sizes_of
from flows.searches.trials import Trial, picked, require_one, take_plans
from flows.settings.model import SearchSettings
from tasks.capture import capture
from tasks.proxies import proxies
from tasks.search_report import frontier
from tasks.similarity import similarity
from tasks.store.artifacts import Ref
from tasks.validate import validate


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    return search_name(SearchSettings.model_validate(flow_run.parameters["settings"]))


@flow(name="search", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def search(settings: SearchSettings) -> Ref:
    """Tune and plug in all plans within the limit, or those that proxies rank best; choose one by validation loss."""
    with started(settings, "search", show_search, search_name(settings), search_limits) as run:
        sizes = sizes_of(run.model)
        trials = [Trial(candidate, run) for candidate in make_candidates(settings, sizes)]
        states = run(capture, model=run.model, task=run.task, **run.arguments.capture)
        similar = run(similarity, states=states, **run.arguments.similarity)
        full = run(validate, "full", model=run.model, task=run.task, **run.arguments.evaluate)
        for trial in trials:
            if not trial.reason:
                trial.found["plan"] = make_plan(trial, similar)
        take_plans(trials, sizes, settings.search.max_disclosed)
        for trial in trials:
            if not trial.reason:
                trial.found["proxies"] = compare(trial)
        tried = picked(trials, settings.search)
        for trial in tried:
            trial.found |= measure(trial)
        for trial in trials:
            trial.settle()
        require_one(tried)
        facts = {**run.facts, "max_disclosed": settings.search.max_disclosed, "by": settings.search.by}
        return run.finish(run(frontier, facts=facts, full=full, trials=[trial.described() for trial in trials]))


def make_plan(trial: Trial, similar: Any) -> Any:
    """Make the plan of this combination."""
    (strategy,) = trial.run.settings.strategy
    return planned(trial.run, strategy, similar, trial.name)


def compare(trial: Trial) -> Any:
    """Compare the emulator that would be handed out with the full model, on the model owner's text."""
    run, plan = trial.run, trial.found["plan"]
    inputs = {"model": run.model, "task": run.task, "plan": plan}
    if run.settings.compress.method != "none" or run.settings.distill.enabled:
        inputs["emulator"] = emulator_of(run, trial.name, plan)
    return run(proxies, trial.name, **inputs, **run.arguments.proxies)


def measure(trial: Trial) -> dict[str, Any]:
    """Tune the emulator, plug its blocks in, and compute the validation loss of both for each tuning seed."""
    run, name, plan = trial.run, trial.name, trial.found["plan"]
    inputs = {"model": run.model, "task": run.task, **run.arguments.evaluate}
    emulator = emulator_of(run, name, plan)
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


def search_name(settings: SearchSettings) -> str:
    """Return the search's name in both UIs."""
    strategies = tuple(dict.fromkeys(values["strategy"] for values in combinations(settings)))
    named = run_name(settings.model_copy(update={"strategy": strategies}))
    return f"search · {named} · at most {settings.search.max_disclosed:.0%}"
