"""The parts of a study and the analyses that each of them submits."""

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from flows.studies.cells import StudyCell
from flows.studies.checks import FULL, INITIAL, moved_tuning, points_of, rewound_tuning
from flows.studies.models import captured, full_tuned, plan_of, plugged, similar, tuned_model, variant_of
from tasks.capture import capture
from tasks.core.tuning.settings import TrainSettings
from tasks.similarity import similarity
from tasks.study.cross_similarity import cross
from tasks.study.dataset_distances import dataset_distances
from tasks.study.importance import importance
from tasks.study.landscape import landscape
from tasks.study.lens import lens
from tasks.study.modules import structure
from tasks.study.prediction_distances import distances
from tasks.study.trajectory import trajectory
from tasks.study.weight_distances import weights

logger = logging.getLogger(__name__)
# The lens is trained on training rows.
UNSEEN: Any = "validation"


def look_at_similarity(cell: StudyCell) -> None:
    """Analyse the similarity of the blocks' states, the modules in it, and what both depend on."""
    study, estimator = cell.settings.study, cell.run.arguments.similarity
    states, draws = captured(cell), {"num_bootstraps": study.num_bootstraps, **estimator}
    cell.show(capture, states)
    cell.show(similarity, similar(cell))
    cell(structure, states=states, num_samples=study.num_samples, **draws)
    for pooling in study.poolings:
        if pooling != cell.settings.support.pooling:
            pooled = cell(capture, pooling, **cell.inputs, **cell.run.arguments.capture | {"pooling": pooling})
            cell(structure, pooling, states=pooled, **draws)


def look_through_lenses(cell: StudyCell) -> None:
    """Analyse what each block would predict: train a lens, trace single rows, and compute distances between blocks."""
    study = cell.settings.study
    precision, max_tokens = (cell.run.arguments.evaluate[name] for name in ("precision", "max_tokens"))
    steps = TrainSettings(
        learning_rate=study.lens_learning_rate,
        num_steps=study.lens_steps,
        batch_size=study.lens_batch_size,
        warmup_steps=study.lens_steps // 10,
        max_tokens=max_tokens,
    )
    rows: dict[str, Any] = {"num_rows": study.lens_rows, "precision": precision}
    trained = cell(lens, **cell.inputs, settings=steps, block=study.lens_block, **rows)
    if study.trajectory_rows:
        plans = {name: plan_of(cell, name) for name in cell.settings.strategy}
        shown: dict[str, Any] = {"num_rows": study.trajectory_rows, "num_positions": study.trajectory_positions}
        cell(trajectory, **cell.inputs, lens=trained, plans=plans, split=UNSEEN, precision=precision, **shown)
    tokens: dict[str, Any] = {"num_tokens": study.distance_tokens, "max_tokens": max_tokens, "split": UNSEEN}
    cell(distances, **cell.inputs, lens=trained, **tokens, **rows)
    cell(distances, "logit lens", **cell.inputs, **tokens, **rows)


def look_at_importance(cell: StudyCell) -> None:
    """Measure the loss without each block, with another block in its place, and with its tuning undone."""
    study = cell.settings.study
    chosen = {"num_rows": study.importance_rows, "pairs": study.pairs, **cell.run.arguments.evaluate}
    tuned = {"tuned": tuned_model(cell, "importance", rewound_tuning(cell.settings))} if study.rewound else {}
    cell(importance, **cell.inputs, **tuned, **chosen)


def look_at_landscape(cell: StudyCell) -> None:
    """Measure losses between the tuned models and the initial one."""
    study, order = cell.settings.study, points_of(cell.settings)
    chosen = study.model_dump(include={"resolution_line", "resolution_plane", "extent", "axes"})
    points = {name: point(cell, name) for name in order}
    inputs: dict[str, Any] = {**cell.inputs, "points": points, "order": list(order)}
    cell(landscape, **inputs, num_rows=study.landscape_rows, **chosen, **cell.run.arguments.evaluate)


def look_at_weights(cell: StudyCell) -> None:
    """Compute norms, variances and distances of the blocks' matrices, and if another part tunes, their change."""
    name = moved_tuning(cell.settings)
    tuned = {"tuned": tuned_model(cell, "weights", name)} if name else {}
    cell(weights, model=cell.run.model, **tuned)


def between(cells: Sequence[StudyCell]) -> None:
    """Compare cells with one another: models on the same rows, and data sets in one model."""
    similar = [cell for cell in cells if "similarity" in cell.settings.study.parts]
    _compare_models(similar)
    _compare_data(cells)
    # Last, since the emulator or plug-in has to be computed before its states can be captured.
    for cell in similar:
        for strategy in cell.settings.strategy if cell.settings.study.against else ():
            variant = variant_of(cell, strategy)
            inputs = {"model": variant, "task": cell.run.task, **cell.run.arguments.capture}
            name = f"{strategy} {cell.settings.study.against}".replace("_", "-")
            states = cell.submit_hidden(capture, name, **inputs)
            cell(cross, f"against {name}", first=captured(cell), second=states)


def _compare_models(cells: Sequence[StudyCell]) -> None:
    """Compare every two models with states of the same rows and pooling; for others, log what differs."""
    for first, second in itertools.combinations(cells, 2):
        if first.run.model == second.run.model:
            continue
        if unlike := [name for name, value in first.rows.items() if second.rows[name] != value]:
            words = "%s and %s are not compared by CKA, which takes the same rows, captured alike; they differ in %s"
            logger.warning(words, first.label, second.label, ", ".join(unlike))
        else:
            first(cross, f"against {second.label}", first=captured(first), second=captured(second))


def _compare_data(cells: Sequence[StudyCell]) -> None:
    """Compare the data sets of each model; a model with only one is skipped."""
    sets: dict[str, list[StudyCell]] = {}
    for cell in cells:
        if "datasets" in cell.settings.study.parts:
            found = sets.setdefault(cell.run.model.weights, [])
            if all(cell.run.task != other.run.task for other in found):
                found.append(cell)
    for found in sets.values():
        if len(found) == 1:
            words = "study.parts has datasets, but of %s there is one data set only (%s): nothing to compare"
            logger.warning(words, found[0].model, found[0].task)
            continue
        tasks = tuple(cell.task for cell in found)
        names = tasks if len(set(tasks)) == len(tasks) else tuple(cell.label for cell in found)
        found[0](dataset_distances, states=[captured(cell) for cell in found], names=names)


def point(cell: StudyCell, name: Any) -> Any:
    """Return a point of the landscape: None for the initial model, else the artifact of a tuning."""
    if name == INITIAL:
        return None
    if name == FULL:
        return full_tuned(cell)
    return cell.others.get(name) or plugged(cell, name)


ANALYSES: dict[str, Callable[[StudyCell], Any]] = {
    "similarity": look_at_similarity,
    "lens": look_through_lenses,
    "importance": look_at_importance,
    "landscape": look_at_landscape,
    "weights": look_at_weights,
    # Compares several cells, see `between`.
    "datasets": lambda cell: None,
}
