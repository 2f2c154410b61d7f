"""Rehearse the metrics of a task on made-up answers, so that code that fails does so before anything is computed."""

from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.scoring import METRICS_FAIL
from tasks.data.sources import TaskSource
from tasks.store.boundary import translated

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

NUM_ROWS = 4


def rehearse_metrics(task: TaskSource) -> None:
    """Compute the metrics of an lm-eval task on its first scored rows, with the right answers in place of a model's.

    Raises:
        InputError: when code of the task fails or needs a missing package; when its scoring runs code that the model
            writes, or needs images or audio.
    """
    from tasks.data.lm_eval.code import code_of
    from tasks.data.lm_eval.seeding import seeded
    from tasks.data.lm_eval_rows import harness_task, without_bars

    few = task.model_copy(update={"num_test": min(NUM_ROWS, task.num_test or NUM_ROWS)})
    try:
        definition = harness_task(few, "scored")
    except InputError:
        return  # the definition drops these rows; all rows together have been read before
    if getattr(definition, "UNSAFE_CODE", False):
        raise InputError(f"task {task.name!r}: scoring it runs code that the model writes, which is not done here")
    if getattr(definition, "MULTIMODAL", False):
        raise InputError(f"task {task.name!r} needs pictures or sounds, and the models here read text only")
    with translated(METRICS_FAIL.format(task=task), quote=False, code=code_of(task)), seeded(), without_bars():
        for metric, values in _results(definition).items():
            _aggregate(definition, metric, values)


def _aggregate(definition: "ConfigurableTask", metric: str, values: list[Any]) -> None:
    """Aggregate a metric to see whether a package is missing; other errors may come from too few rows and are ignored.

    lm-eval itself takes the mean of a metric for which the definition names no aggregation.

    Raises:
        ImportError: when a package is missing.
        InputError: when lm-eval does not know the aggregation.
    """
    from lm_eval.api.metrics import mean

    aggregation = definition.aggregation().get(metric, mean)
    if not callable(aggregation):
        raise InputError(f"the definition names an aggregation of {metric!r} that lm-eval does not know")
    try:
        aggregation(values)
    except ImportError:
        raise
    except Exception:
        return


def _results(definition: "ConfigurableTask") -> dict[str, list[Any]]:
    """Return the values of each metric for the rows."""
    definition.build_all_requests()
    for request in definition.instances:
        request.resps += [_answer(definition, request)] * (request.repeats or 1)
    definition.apply_filters()
    found = defaultdict(list)
    for _, group in groupby(definition.instances, key=lambda request: request.doc_id):
        requests = list(group)
        for name in requests[0].filtered_resps:
            values = definition.process_results(requests[0].doc, [request.filtered_resps[name] for request in requests])
            for metric, value in values.items():
                found[metric].append(value)
    return found


def _answer(definition: "ConfigurableTask", request: "Instance") -> Any:
    """Return a possible answer of a model: the right one, or a log-likelihood."""
    from tasks.data.lm_eval.requests import right_answer

    if request.request_type == "generate_until":
        return right_answer(definition, request.doc)
    return -1.0 if request.request_type == "loglikelihood_rolling" else (-1.0, False)
