"""The stages of each party: the model owner makes an emulator, the data owner tunes it, and the owner of
the model plugs in what comes back.

owner   model ─ capture ─ similarity ─ cluster ─ emulate ─ (compress) ─ (distill) ─ (tune) ─ evaluate ─ party_report
data            open_bundle ─ tune ─ (select) ─ evaluate ─ (expose) ─ party_report
owner           open_bundle ─ (merge) ─ plug_in ─ examine ─ evaluate ─ party_report
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flows.method import at_best_rate, emulator_of, planned, replacements_of, tunings_of
from flows.running.base_run import BaseRun
from flows.settings.kinds import EmulateSettings
from flows.settings.run import Strategy
from tasks.capture import capture
from tasks.core.merging.method import Merging
from tasks.core.plan.registry import STRATEGIES
from tasks.evaluate import evaluate
from tasks.exchange.received import ReceivedBundle
from tasks.parties.examine import examine
from tasks.parties.expose import expose
from tasks.parties.merge import merge
from tasks.parties.open_bundle import open_bundle
from tasks.plug_in import plug_in
from tasks.similarity import similarity

# Evidence that is taken from the similarity of the support set's states.
SIMILAR = ("clusters", "block_influence", "angular_distance")


def plan_of(run: BaseRun, strategy: Strategy) -> Any:
    """Make the plan of the emulator, from states only where its strategy looks at them."""
    similar = None
    if STRATEGIES[strategy].needs in SIMILAR:
        states = run(capture, model=run.model, task=run.task, **run.arguments.capture)
        similar = run(similarity, states=states, **run.arguments.similarity)
    return planned(run, strategy, similar)


def emulator_stages(run: BaseRun[EmulateSettings], strategy: Strategy, plan: Any) -> tuple[Any, dict[str, Any]]:
    """Make the emulator of a plan; return it, and the scores of the full model and of the emulator.

    Where the settings say so, the emulator is tuned on own rows, and scored so and with its blocks in the full model.
    """
    emulator = emulator_of(run, strategy, plan, replacements_of(run, strategy, plan))
    scores = _scored(run, "full_zero_shot", "full")
    scores |= _scored(run, "emulator_zero_shot", f"{strategy} emulator", emulator=emulator)
    if run.settings.exchange.reference:
        tuned = _own_tuning(run, plan, emulator)
        plugged = run(plug_in, "own tuning", model=run.model, plan=tuned, tuned=tuned)
        scores |= _scored(run, "emulator_tuned", "own tuning", emulator=emulator, tuned=tuned)
        scores |= _scored(run, "plug_in", "own tuning, plugged in", tuned=plugged)
    return emulator, scores


def _scored(run: BaseRun, setting: str, label: str, **made: Any) -> dict[str, Any]:
    """Score a model on the task and on the held-out ones; return the scores by setting, or setting/task."""
    arguments = {"model": run.model, **made, **run.arguments.scoring}
    others = {
        f"{setting}/{name}": run(evaluate, f"{label} on {name}", task=task, **arguments)
        for name, task in run.held_out.items()
    }
    return {setting: run(evaluate, label, task=run.task, **arguments), **others}


def tuning_stages(run: BaseRun, bundle: ReceivedBundle) -> tuple[Any, dict[str, Any]]:
    """Tune an emulator that was received; return the tuning, and the scores of the emulator before and after it."""
    inputs, scores = {"model": run.model, "task": run.task}, run.arguments.scoring
    emulator = run(open_bundle, "emulator", bundle=bundle)
    # An emulator's folder has its plan.
    (tuned,) = tunings_of(run, "fixed", emulator, emulator)
    return tuned, {
        "emulator_zero_shot": run(evaluate, "fixed emulator", **inputs, emulator=emulator, **scores),
        "emulator_tuned": run(evaluate, "fixed emulator tuned", **inputs, emulator=emulator, tuned=tuned, **scores),
    }


def exposure_stage(run: BaseRun, bundle: ReceivedBundle, rate: float | None, num_canaries: int) -> Any:
    """Tune an emulator that was received once more, with canaries among the rows. rate: the chosen one of several."""
    emulator = run(open_bundle, "emulator", bundle=bundle)
    how = run.arguments.tune(run.settings.tune.seeds[0], rate)
    how["settings"] = replace(how["settings"], may_diverge=False)
    return run(expose, "canaries", task=run.task, emulator=emulator, **how, num_canaries=num_canaries)


def plug_in_stages(
    run: BaseRun, bundles: Sequence[ReceivedBundle], merging: Merging | None = None
) -> tuple[Any, list[Any], dict[str, Any]]:
    """Prepare tuned blocks that were received for the full model; return them, how they differ from its blocks, and
    the scores before and after.

    merging: of several bundles. The differences are those of each bundle, and then those of the merge.
    """
    if merging is None:
        (bundle,) = bundles
        plugged, changes = _plugged(run, "returned", run(open_bundle, "tuned blocks", bundle=bundle))
        found = [changes]
    else:
        tunings = [
            run(open_bundle, f"tuned blocks {number}", bundle=bundle) for number, bundle in enumerate(bundles, start=1)
        ]
        found = [_plugged(run, f"returned {number}", tuned)[1] for number, tuned in enumerate(tunings, start=1)]
        merged = run(merge, "returned", model=run.model, tunings=tunings, merging=merging)
        plugged, changes = _plugged(run, "merged", merged)
        found.append(changes)
    scores = _scored(run, "full_zero_shot", "full") | _scored(run, "plug_in", "plugged in", tuned=plugged)
    return plugged, found, scores


def own_changes(run: BaseRun[EmulateSettings]) -> Any:
    """Tune the emulator on the model owner's rows, as an honest data owner would; return how its blocks changed.

    run: a part of the run, whose end does not wait for it.
    """
    strategy = run.settings.require_one_strategy()
    plan = plan_of(run, strategy)
    tuned = _own_tuning(run, plan, emulator_of(run, strategy, plan, replacements_of(run, strategy, plan)))
    return _plugged(run, "own tuning", tuned)[1]


def _own_tuning(run: BaseRun, plan: Any, emulator: Any) -> Any:
    """Tune an emulator on own rows, with the first seed."""
    inputs, arguments = {"task": run.task, "plan": plan, "emulator": emulator}, run.arguments
    return at_best_rate(run, "own tuning", run.settings.tune.seeds[0], arguments.rates, arguments.tune, **inputs)


def _plugged(run: BaseRun, label: str, tuned: Any) -> tuple[Any, Any]:
    """Prepare a tuning for the full model; return it, and how it differs from the model's blocks."""
    # A tuning's folder has its plan.
    plugged = run(plug_in, label, model=run.model, plan=tuned, tuned=tuned)
    return plugged, run(examine, label, model=run.model, tuned=tuned, plugged=plugged)
