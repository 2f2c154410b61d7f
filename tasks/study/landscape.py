"""Landscape: measure loss and task metric on lines and on a plane between tunings of one model."""

from typing import TYPE_CHECKING, Any, Literal

from tasks.artifacts.study.landscape import LandscapeFacts, LandscapeSummary, write_landscape
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from tasks.core.study.interpolation import Mixture
    from tasks.core.study.landscape import Measured
    from tasks.data.task_measure import TaskMeasure

    States = Mapping[str, Mapping[str, Tensor]]


@stage(packages=("torch", "transformers", "tokenizers", "lm_eval"), gpu=True)
def landscape(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    points: dict[str, Ref | None],
    *,
    order: list[str],
    num_rows: int | None = None,
    split: Split = "validation",
    resolution_line: int = 25,
    resolution_plane: int = 25,
    extent: tuple[float, float] = (-4.0, 4.0),
    axes: Literal["raw", "filter"] = "raw",
    precision: str = "float32",
    max_tokens: int = 8192,
) -> dict[str, Any]:
    """Measure the line between every two points; with three or more, also the plane of the first three.

    points: tunings of the full model by name (of `tune` with the full plan, or of `plug_in`), None for the model
    itself; order: their names in order, of which the first is the plane's origin. axes: of the plane, "raw" (1 is where
    the other point lies) or "filter" (normalised by filter: 1 is a step as long as the origin's weights).
    resolution_plane below 2: no plane.

    Raises:
        InputError: when there are fewer than two points or rows, equal points, three points on one line, tunings of
            another model, adapters, or values that are not finite at a point or between two.
    """
    from tasks.core.blocks.devices import EVERY
    from tasks.data.task_measure import TaskMeasure
    from tasks.models.loading import load_model, load_tokenizer
    from tasks.models.points import load_points

    _require_points(points, order)
    network = load_model(model, precision, "cpu" if work.device == EVERY else work.device)
    states = load_points(network, {name: None if (ref := points[name]) is None else work.open(ref) for name in order})
    limits: Any = {
        "num_rows": num_rows,
        "max_length": model.context,
        "max_tokens": work.pass_tokens(max_tokens, "evaluate.max_tokens"),
    }
    measure = TaskMeasure(network, load_tokenizer(model), task, split, **limits)
    tensors, lines = _lines(work, network, states, measure, resolution_line)
    facts: LandscapeFacts = {
        "points": order,
        "lines": lines,
        "split": split,
        "metric": measure.metric,
        "higher_is_better": measure.higher_is_better,
        "num_tokens": measure.num_tokens,
    }
    if len(order) > 2 and resolution_plane > 1:
        plane, how = _plane(work, network, states, measure, axes, extent, resolution_plane)
        tensors, facts["plane"] = tensors | plane, how
    write_landscape(work.out, tensors, facts)
    summary: LandscapeSummary = {
        "num_rows": measure.num_rows,
        "num_points": len(order),
        "metric": measure.metric,
        "split": split,
        "num_changed_blocks": len({block for line in lines for block in line["changed_blocks"]}),
    }
    return {**summary, **_barriers(lines)}


def _barriers(lines: "Sequence[Mapping[str, Any]]") -> dict[str, Any]:
    """Return every line's barrier, by the names of its ends."""
    found: dict[str, Any] = {}
    for line in lines:
        between = f"{line['begin']}_{line['end']}"
        found |= {
            f"barrier_{between}": line["height"],
            f"stderr_of_barrier_{between}": line["stderr"],
            f"place_of_barrier_{between}": line["place"],
            f"metric_drop_{between}": line["metric_drop"],
            f"connected_{between}": line["connected"],
        }
    return found


def _require_points(points: "Mapping[str, Ref | None]", order: "Sequence[str]") -> None:
    from tasks.core.errors import InputError

    if sorted(order) != sorted(points) or len(points) < 2:
        raise InputError(
            f"study.points {list(order)}: a landscape needs at least two points, each named once; there are"
            f" {', '.join(points) or 'none'}"
        )


def _lines(
    work: Work, network: "PreTrainedModel", states: "States", measure: "TaskMeasure", num_places: int
) -> "tuple[dict[str, Tensor], list[dict[str, Any]]]":
    """Measure the line between every two points, and its barrier."""
    from dataclasses import asdict
    from functools import partial
    from itertools import combinations

    import torch

    from tasks.core.study.interpolation import Mixture
    from tasks.core.study.landscape import barrier, grid, survey

    places = grid(0.0, 1.0, num_places)
    facts, losses, metrics = [], [], []
    for begin, end in combinations(states, 2):
        mixture = _placed(Mixture(network, states[begin], [states[end]]), work)
        coordinates = [(place,) for place in places]
        name = f"{begin} to {end}"
        found = survey(mixture, coordinates, measure, progress=partial(work.progress, description=name))
        _require_finite({begin: found[0], end: found[-1]})
        between = asdict(barrier(places, found, measure.higher_is_better, (begin, end)))
        own = {"begin": begin, "end": end, "changed_blocks": mixture.changed_blocks}
        ends = {"begin_loss": found[0].loss, "end_loss": found[-1].loss}
        ends |= {"begin_metric": found[0].metric, "end_metric": found[-1].metric}
        facts.append(own | between | ends)
        losses.append([each.loss for each in found])
        metrics.append([each.metric for each in found])
    named = {"line_places": places, "line_loss": losses, "line_metric": metrics}
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in named.items()}, facts


def _plane(
    work: Work,
    network: "PreTrainedModel",
    states: "States",
    measure: "TaskMeasure",
    axes: Literal["raw", "filter"],
    extent: tuple[float, float],
    num_places: int,
) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Measure the plane through the first three points; return also the directions of its axes."""
    import torch

    from tasks.core.study.interpolation import Mixture, geometry, projected
    from tasks.core.study.landscape import grid, plane_order, survey

    origin, first, second = list(states)[:3]
    mixture = Mixture(network, states[origin], [states[first], states[second]], axes)
    found = geometry(mixture, [origin, first, second])
    marked = {name: projected(mixture, state, found, network) for name, state in states.items()}
    if axes == "raw":
        # Exact values, which least squares gives up to rounding.
        marked |= {origin: (0.0, 0.0, 0.0), first: (1.0, 0.0, 0.0), second: (0.0, 1.0, 0.0)}
    places = grid(*extent, num_places)
    order = plane_order(mixture, places, places)
    mixture = _placed(mixture, work)
    coordinates = [(places[i], places[j]) for i, j in order]
    seen = survey(mixture, coordinates, measure, progress=lambda each: work.progress(each, "plane"))
    values = torch.empty(2, num_places, num_places, dtype=torch.float64)
    for (i, j), each in zip(order, seen, strict=True):
        values[:, j, i] = torch.tensor([each.loss, each.metric], dtype=torch.float64)
    line = torch.tensor(places, dtype=torch.float64)
    tensors = {"plane_x": line, "plane_y": line.clone(), "plane_loss": values[0].clone()}
    tensors |= {"plane_metric": values[1].clone()}
    tensors["plane_points"] = torch.tensor(list(marked.values()), dtype=torch.float64)
    facts = {"origin": origin, "x": first, "y": second, "axes": axes, "extent": list(extent)}
    lengths = {"x_length": found.lengths[0], "y_length": found.lengths[1], "cosine": found.cosine}
    return tensors, facts | lengths | {"changed_blocks": mixture.changed_blocks}


def _placed(mixture: "Mixture", work: Work) -> "Mixture":
    """Spread the model over several GPUs where it needs them; on one device it is in place already."""
    from tasks.core.blocks.devices import EVERY, place

    if work.device == EVERY:
        mixture.model = place(mixture.model, EVERY).eval()
    return mixture


def _require_finite(found: "Mapping[str, Measured]") -> None:
    import math

    from tasks.core.errors import InputError

    for name, each in found.items():
        if not math.isfinite(each.loss):
            raise InputError(
                f"the loss at point {name!r} is not finite: look for NaN in the model's weights, or compute in"
                ' model.precision = "float32"'
            )
