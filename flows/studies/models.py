"""The states, plans and tuned models of a cell that several parts of a study need; each is submitted once."""

from typing import TYPE_CHECKING, Any

from flows.method import at_best_rate, emulator_of, planned, replacements_of, tunings_of
from flows.studies.cells import StudyCell
from flows.studies.checks import FULL
from tasks.capture import capture
from tasks.cluster import cluster
from tasks.plug_in import plug_in
from tasks.similarity import similarity

if TYPE_CHECKING:
    from flows.settings.run import Strategy


def captured(cell: StudyCell) -> Any:
    """Return the states of the support set, from which plans are made."""
    return cell.once("capture", lambda: cell.submit_hidden(capture, **cell.inputs, **cell.run.arguments.capture))


def similar(cell: StudyCell) -> Any:
    """Return the similarity of these states."""
    return cell.once(
        "similarity", lambda: cell.submit_hidden(similarity, states=captured(cell), **cell.run.arguments.similarity)
    )


def plan_of(cell: StudyCell, strategy: "Strategy") -> Any:
    """Return a strategy's plan."""
    return cell.once(f"plan {strategy}", lambda: planned(cell.run, strategy, similar(cell), strategy))


def full_tuned(cell: StudyCell) -> Any:
    """Return the tuning of every block of the full model with the first seed."""
    run, seed = cell.run, cell.settings.tune.seeds[0]

    def make() -> Any:
        plan = run(cluster, "full", strategy="full", num_blocks=run.model.num_blocks)
        inputs = {"task": run.task, "plan": plan, "model": run.model}
        return at_best_rate(run, "full", seed, run.arguments.full_rates, run.arguments.full_tune, **inputs)

    return cell.once("full", make)


def plugged(cell: StudyCell, strategy: "Strategy", export: bool = False) -> Any:
    """Return a strategy's blocks, tuned in its emulator with the first seed, ready for the full model."""
    run, plan = cell.run, plan_of(cell, strategy)

    def tuned() -> Any:
        return tunings_of(run, strategy, plan, _emulator(cell, strategy))[0]

    def make() -> Any:
        blocks = cell.once(f"tuned {strategy}", tuned)
        name = f"{strategy}, written out" if export else strategy
        return run(plug_in, name, model=run.model, plan=plan, tuned=blocks, export=export)

    return cell.once(f"plugged {strategy} {export}", make)


def variant_of(cell: StudyCell, strategy: "Strategy") -> Any:
    """Return a strategy's emulator or plug-in as a separate model; waits until it is computed."""
    if cell.settings.study.against == "emulator":
        return cell.run.as_model(_emulator(cell, strategy))
    return cell.run.as_model(plugged(cell, strategy, export=True), "model")


def tuned_model(cell: StudyCell, analysis: str, name: Any) -> Any:
    """Return the full model's tuning or a strategy's plug-in for an analysis, and note which for the captions."""
    cell.facts["tuned"] = {**cell.facts.get("tuned", {}), analysis: name}
    return full_tuned(cell) if name == FULL else plugged(cell, name)


def _emulator(cell: StudyCell, strategy: "Strategy") -> Any:
    def make() -> Any:
        plan = plan_of(cell, strategy)
        return emulator_of(cell.run, strategy, plan, replacements_of(cell.run, strategy, plan))

    return cell.once(f"emulator {strategy}", make)
