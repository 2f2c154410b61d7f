"""The stages of the whole method for one model and one task, with both parties in one process, for research.

model, task ─ capture ─ similarity ─ cluster ─ emulate ─ (compress) ─ (distill) ─┬─ tune ─ (select) ─ plug_in ─┐
                                                                                 └─ evaluate ──────────────────┴─ report

The strategies `single`, `iterative_drop`, `spans` and `scaleot` need runs of the model that only they use: the stages
of the first two names, `stand_in_errors` and `harmonizers`, which come before `cluster`. Plans with linear stand-ins or
harmonizers have these made before `emulate`, by the stages `stand_ins` and `harmonizers`. A run that computes and one
that is only priced call the same functions.
"""

from collections.abc import Callable, Sequence
from typing import Any

from flows.running.base_run import BaseRun
from flows.settings.run import Strategy
from tasks.capture import capture
from tasks.capture_single import single
from tasks.cluster import cluster
from tasks.compress import compress
from tasks.compress_by_gradient import compress_by_gradient
from tasks.core.plan.registry import STRATEGIES
from tasks.distill import distill
from tasks.emulate import emulate
from tasks.evaluate import evaluate
from tasks.harmonizers import harmonizers
from tasks.iterative_drop import iterative_drop
from tasks.plug_in import plug_in
from tasks.report import report
from tasks.select_rate import select
from tasks.similarity import similarity
from tasks.stand_in_errors import stand_in_errors
from tasks.stand_ins import stand_ins
from tasks.tune import tune


def submit_stages(run: BaseRun) -> Any:
    """Submit every stage of a run; return the result of the last one, the report."""
    states = run(capture, model=run.model, task=run.task, **run.arguments.capture)
    similar = run(similarity, states=states, **run.arguments.similarity)
    # Before the full model: the stage that has waited longest gets the next free core or GPU.
    strategies = [one_strategy(run, name, similar) for name in run.settings.strategy]
    full = full_model(run)
    return run(report, facts=run.facts, full=full, strategies=strategies, similarity=similar)


def full_model(run: BaseRun) -> dict[str, Any]:
    """Submit the two settings of the full model: zero-shot, and with every block tuned (the ceiling)."""
    scores = run.arguments.scoring
    zero_shot = run(evaluate, "full", model=run.model, task=run.task, **scores)
    if not run.settings.full_tune.enabled:
        return {"zero_shot": zero_shot, "fine_tuned": []}
    plan = run(cluster, "full", strategy="full", num_blocks=run.model.num_blocks)
    inputs = {"task": run.task, "plan": plan, "model": run.model}
    tuned = [
        at_best_rate(run, f"full, seed {seed}", seed, run.arguments.full_rates, run.arguments.full_tune, **inputs)
        for seed in run.settings.tune.seeds
    ]
    fine_tuned = [
        run(evaluate, f"full tuned, {name}", model=run.model, task=run.task, tuned=blocks, **scores)
        for name, blocks in run.by_seed(tuned)
    ]
    return {"zero_shot": zero_shot, "fine_tuned": fine_tuned, "tuning": tuned}


def at_best_rate(
    run: BaseRun, name: str, seed: int, rates: Sequence[float], settings: Callable[..., dict[str, Any]], **inputs: Any
) -> Any:
    """Tune at each learning rate; of several, select the tuning with the lowest validation loss, never by scores."""
    if len(rates) == 1:
        return run(tune, name, **inputs, **settings(seed, rates[0]))
    tunings = [run(tune, f"{name}, rate {rate:g}", **inputs, **settings(seed, rate)) for rate in rates]
    return run(select, name, tunings=tunings, learning_rates=list(rates))


def planned(run: BaseRun, name: Strategy, similar: Any, label: str | None = None) -> Any:
    """Make the plan of one strategy from its evidence: the common states, or runs of the model for this strategy."""
    inputs: dict[str, Any] = {"model": run.model, "task": run.task}
    evidence, num_blocks = dict[str, Any](), run.model.num_blocks
    if (needs := STRATEGIES[name].needs) == "single_clusters":
        states = run(single, **inputs, **run.arguments.single)
        evidence["similarity"] = run(similarity, "single", states=states, **run.arguments.similarity)
    elif needs == "dropped":
        evidence["dropped"] = run(iterative_drop, **inputs, **run.arguments.iterative_drop(num_blocks))
    elif needs == "stand_in_errors":
        evidence["stand_in_errors"] = run(stand_in_errors, **inputs, **run.arguments.stand_in_errors(num_blocks))
    elif needs == "block_scores":
        evidence["harmonizers"] = harmonizers_of(run, name, label)
    elif needs != "num_blocks":
        evidence["similarity"] = similar
    return run(cluster, label or name, **run.arguments.cluster(name, num_blocks, evidence))


def one_strategy(run: BaseRun, name: Strategy, similar: Any) -> dict[str, Any]:
    """Make the emulator of one strategy; score it zero-shot, tuned, and with its tuned blocks in the full model."""
    inputs, scores = {"model": run.model, "task": run.task}, run.arguments.scoring
    plan = planned(run, name, similar)
    beside = replacements_of(run, name, plan)
    emulator = emulator_of(run, name, plan, beside)
    zero_shot = run(evaluate, f"{name} emulator", **inputs, emulator=emulator, **scores)
    tuned = tunings_of(run, name, plan, emulator)
    plugged = plugged_of(run, name, plan, tuned)
    emulator_tuned = [
        run(evaluate, f"{name} emulator tuned, {seed}", **inputs, emulator=emulator, tuned=blocks, **scores)
        for seed, blocks in run.by_seed(tuned)
    ]
    plugged_in = [
        run(evaluate, f"{name} plugged in, {seed}", **inputs, tuned=blocks, **scores)
        for seed, blocks in run.by_seed(plugged)
    ]
    return {
        "name": name,
        "plan": plan,
        **{made: result for made, result in beside.items() if made == "stand_ins"},
        "emulator": emulator,
        "emulator_zero_shot": zero_shot,
        "emulator_tuned": emulator_tuned,
        "plugged_in": plugged_in,
        "tuning": tuned,
    }


def harmonizers_of(run: BaseRun, strategy: Strategy, label: str | None = None) -> Any:
    """Train the harmonizers and the scores of the blocks that a strategy may remove."""
    given = run.arguments.harmonizers(strategy, run.model.num_blocks)
    return run(harmonizers, label or strategy, model=run.model, text=run.text, **given)


def replacements_of(run: BaseRun, strategy: Strategy, plan: Any, label: str | None = None) -> dict[str, Any]:
    """Make the linear stand-ins or the harmonizers of a plan, as arguments of `emulate`; none where it has none."""
    if run.arguments.is_linear(strategy):
        given = {"model": run.model, "task": run.task, "plan": plan}
        return {"stand_ins": run(stand_ins, label or strategy, **given, **run.arguments.stand_ins)}
    if run.arguments.is_harmonized(strategy):
        return {"harmonizers": harmonizers_of(run, strategy, label), **run.arguments.harmonized}
    return {}


def emulator_of(run: BaseRun, strategy: Strategy, plan: Any, beside: dict[str, Any], label: str | None = None) -> Any:
    """Build the emulator: the kept blocks, and where the settings say so, compressed and distilled.

    beside: what `replacements_of` has made for its plan.
    """
    name = label or strategy
    emulator = run(emulate, name, model=run.model, plan=plan, **beside)
    if run.settings.compress.method == "gradot":
        given = {"model": run.model, "task": run.task, "emulator": emulator}
        emulator = run(compress_by_gradient, name, **given, **run.arguments.compress, **run.arguments.proxies)
    elif run.settings.compress.method != "none":
        emulator = run(compress, name, emulator=emulator, **run.arguments.compress)
    if run.settings.distill.enabled:
        emulator = run(distill, name, emulator=emulator, teacher=run.teacher, text=run.text, **run.arguments.distill)
    return emulator


def changes_frozen_weights(run: BaseRun, strategy: Strategy) -> bool:
    """Return whether an emulator has more than its plan says: other weights in frozen blocks, or harmonizers."""
    settings = run.settings
    changed = settings.compress.method != "none" or settings.distill.enabled
    return changed or run.arguments.is_linear(strategy) or run.arguments.is_harmonized(strategy)


def tunings_of(run: BaseRun, name: str, plan: Any, emulator: Any) -> list[Any]:
    """Tune the emulator once for each tuning seed."""
    given = {"task": run.task, "plan": plan, "emulator": emulator}
    return [
        at_best_rate(run, f"{name}, seed {seed}", seed, run.arguments.rates, run.arguments.tune, **given)
        for seed in run.settings.tune.seeds
    ]


def plugged_of(run: BaseRun, name: str, plan: Any, tuned: list[Any]) -> list[Any]:
    """Prepare the tuned blocks of each tuning seed for the full model."""
    return [
        run(plug_in, f"{name}, {seed}", model=run.model, plan=plan, tuned=blocks, **run.arguments.plug_in)
        for seed, blocks in run.by_seed(tuned)
    ]
