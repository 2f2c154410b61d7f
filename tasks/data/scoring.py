"""Score a model on a task: by lm-eval's metrics for its tasks, by perplexity for text and instructions."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import CrashError, InputError
from tasks.data.sources import TaskSource
from tasks.store.boundary import passed_through, translated

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.core.blocks.streaming import StoredTensors
    from tasks.core.evaluation.scores import Scores

# The first of these that a task has is its main metric (CRaSh reports `acc`, OFT word perplexity on WikiText).
MAIN_METRICS = ("acc", "exact_match", "em", "word_perplexity", "perplexity", "f1")
Progress = Callable[..., Iterator[Any]]
METRICS_FAIL = "task {task.name!r}: its metrics cannot be computed; its definition is {task.yaml}"


def score(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: TaskSource,
    *,
    max_length: int,
    max_tokens: int = 8192,
    num_fewshot: int = 0,
    progress: Progress | None = None,
    tensors: "StoredTensors | None" = None,
) -> "Scores":
    """Score a model on the task's scored split.

    max_length: tokens that the model takes; max_tokens: padded tokens in one forward pass; num_fewshot: examples in
    front of each row, of tasks of lm-eval. tensors: of the model's blocks, where these are on disk. A soft prompt takes
    its tokens of max_length, and none of the task's own limit.
    """
    from tasks.core.blocks.soft_prompt import prompt_ids
    from tasks.data.lm_eval.model import language_model

    prompt = len(prompt_ids(model))
    room = max_length - prompt
    longest, window = task.longest(room) + prompt, task.window(room)
    scorer = language_model(model, tokenizer, longest, max_tokens, progress or _silent, window, tensors)
    if task.kind == "lm_eval":
        return _score_lm_eval(scorer, task, num_fewshot)
    return _score_perplexity(scorer, tokenizer, task, room)


def _score_lm_eval(scorer: Any, task: TaskSource, num_fewshot: int) -> "Scores":
    from tasks.core.evaluation.scores import Scores
    from tasks.data.lm_eval.requests import digest_of_requests
    from tasks.data.lm_eval.seeding import seeded
    from tasks.data.lm_eval_rows import built_task, harness_task
    from tasks.data.wording import require_same

    with seeded():
        definition = harness_task(task, "scored", num_fewshot)
        results = _evaluated(scorer, task, definition)
    digest = digest_of_requests(built_task(task, "scored") if num_fewshot else definition)
    require_same(task, "scored", digest)
    samples = results["samples"][task.name]
    # A definition may read one output in several ways (filters); the first one counts.
    samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    found = results["results"][task.name]
    ending = f",{samples[0]['filter']}"
    metrics = {
        key.removesuffix(ending): float(value)
        for key, value in found.items()
        if key.endswith(ending) and "_stderr" not in key and isinstance(value, int | float)
    }
    main = _main_metric(task, metrics)
    items = [sample[main] for sample in samples]
    return Scores(
        metric=main,
        value=metrics[main],
        stderr=_error(task, definition, main, items),
        num_rows=len(samples),
        higher_is_better=bool(definition.higher_is_better().get(main, not main.endswith("perplexity"))),
        metrics=metrics,
        per_row=[float(item) for item in items] if all(isinstance(item, int | float) for item in items) else [],
        per_row_losses=_losses(definition, main, items),
        digest=digest,
        chance=_chance(definition, main, [sample["doc"] for sample in samples]),
        num_truncated=scorer.num_truncated,
    )


def _main_metric(task: TaskSource, metrics: dict[str, float]) -> str:
    if not metrics:
        raise InputError(f"task {task.name!r} has no metric that is a number")
    return next((name for name in MAIN_METRICS if name in metrics), next(iter(metrics)))


def _evaluated(scorer: Any, task: TaskSource, definition: "ConfigurableTask") -> dict[str, Any]:
    """Evaluate with lm-eval.

    Raises:
        InputError: when the code of the task's metrics fails; does not quote its error, which may contain a row.
    """
    import lm_eval

    from tasks.data.lm_eval import model as language_model
    from tasks.data.lm_eval.code import code_of
    from tasks.data.lm_eval_rows import without_bars

    # `_error` computes the standard error: lm-eval has none for perplexity, and fails on a single row.
    tasks = {"tasks": {task.name: definition}, "groups": {}}
    try:
        with without_bars():
            return lm_eval.evaluate(lm=scorer, task_dict=tasks, bootstrap_iters=0, log_samples=True)
    except (Exception, SystemExit) as error:
        if isinstance(error, CrashError) or passed_through(error, [Path(language_model.__file__)]):
            raise  # the model failed, not the task
        with translated(METRICS_FAIL.format(task=task), quote=False, code=code_of(task)):
            raise


def _error(task: TaskSource, definition: "ConfigurableTask", metric: str, items: list[Any]) -> float | None:
    from lm_eval.api.metrics import mean, weighted_perplexity

    from tasks.core.evaluation.likelihoods import jackknife_error, mean_with_error, perplexity_with_error
    from tasks.data.lm_eval.code import code_of

    aggregation = definition.aggregation().get(metric, mean)
    if aggregation is mean:
        return mean_with_error(items)[1]
    if aggregation is weighted_perplexity:
        return perplexity_with_error([-likelihood for likelihood, _ in items], [weight for _, weight in items])[1]
    with translated(METRICS_FAIL.format(task=task), quote=False, code=code_of(task)):
        return jackknife_error(items, aggregation)


def _chance(definition: "ConfigurableTask", metric: str, rows: list[Any]) -> float | None:
    """Accuracy of guessing, where the rows have choices."""
    from tasks.core.evaluation.chance import guessing

    if definition.OUTPUT_TYPE != "multiple_choice" or not metric.startswith("acc"):
        return None
    return guessing([len(definition.doc_to_choice(row)) for row in rows])


def _losses(definition: "ConfigurableTask", metric: str, items: list[Any]) -> list[float]:
    """Scaled losses of documents, for a metric that is a perplexity over them; empty for others."""
    from lm_eval.api.metrics import weighted_perplexity

    from tasks.core.evaluation.likelihoods import scaled_losses

    if definition.aggregation().get(metric) is not weighted_perplexity:
        return []
    return scaled_losses([-likelihood for likelihood, _ in items], [weight for _, weight in items])


def _score_perplexity(scorer: Any, tokenizer: "PreTrainedTokenizerBase", task: TaskSource, max_length: int) -> "Scores":
    """Score the perplexity per token of the answers (instructions) or documents (text)."""
    from tasks.core.blocks.locate_blocks import text_config
    from tasks.core.evaluation.likelihoods import perplexity_with_error, scaled_losses
    from tasks.core.evaluation.scores import Scores
    from tasks.data.tokenize import load_examples

    examples = load_examples(task, "scored", tokenizer, max_length)
    requests = [(None, list(row.prompt_ids), list(row.answer_ids)) for row in examples.rows]
    losses = [-likelihood for likelihood, _ in scorer.score_tokens(requests)]
    # Windows of one document are not independent, so the error is over documents; over windows for a single document.
    several = examples.num_rows > 1
    documents: dict[int, tuple[float, int]] = {}
    for at, (row, loss) in enumerate(zip(examples.rows, losses, strict=True)):
        place = row.row if several else at
        so_far = documents.get(place, (0.0, 0))
        documents[place] = (so_far[0] + loss, so_far[1] + len(row.answer_ids))
    totals, counts = zip(*documents.values(), strict=True)
    value, stderr = perplexity_with_error(totals, counts)
    metrics = {"perplexity": value, "loss": sum(totals) / sum(counts), "num_tokens": float(sum(counts))}
    per_document = scaled_losses(totals, counts)
    return Scores(
        "perplexity",
        value,
        stderr,
        examples.num_rows,
        False,
        metrics,
        per_row_losses=per_document,
        digest=examples.digest,
        chance=float(text_config(scorer.model.config).vocab_size),
    )


def _silent(items: Iterable[Any], **_: Any) -> Iterator[Any]:
    yield from items
