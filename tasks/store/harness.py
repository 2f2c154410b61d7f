"""The one place that speaks lm-eval's own objects: a task over given rows, and which of its requests is the answer.

A split is handed to lm-eval as if it were the one it scores, so training text is built by the code that builds scored
text.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.core.errors import CrashError, InputError
from tasks.store.boundary import translated
from tasks.store.required_fields import find_lacking
from tasks.store.row_tables import last_of_shortest, make_table
from tasks.store.rows import Row
from tasks.store.seeding import seeded
from tasks.store.splits import split_rows
from tasks.store.task_code import code_of, definition_of, field_read, load_definition, process_examples
from tasks.store.task_sources import DATA_KEYS, Split, TaskSource
from tasks.store.wording import digest_of, mark_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

STRUCTURE = ("tag", "group", "task_list", "include")


class Pair(NamedTuple):
    """A prompt and its right answer as text; `prompt` is None for a document that is scored as a whole.

    mark: of the row as lm-eval reads it (see `tasks.store.wording`).
    """

    number: int
    prompt: str | None
    answer: str
    mark: bytes = b""


def quiet() -> None:
    """No bars, and no log lines: some of lm-eval's quote rows."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)


@contextmanager
def without_bars() -> Iterator[None]:
    """lm-eval draws a bar while it builds requests and offers no switch for it."""
    from functools import partial

    from lm_eval.api import task as module
    from tqdm import tqdm

    module.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        module.tqdm = tqdm


def harness_task(source: TaskSource, split: Split) -> "ConfigurableTask":
    """lm-eval's task, zero-shot, scoring the rows of one split. InputError for rows that it cannot read.

    Who builds its requests does so within `seeded`: the definition's code may draw random numbers then, too.
    """
    rows = split_rows(source, split)
    _require_fields(source, split, rows)
    return _build(source, split, rows)


def answers(source: TaskSource, split: Split) -> Iterator[Pair]:
    """Prompt and right answer of every row of a split, as lm-eval words them when it scores that split.

    The reference template leaves out the delimiter between them (see `tasks.store.templates`).
    """
    # All at once: between rows, the generators would be those of whoever asks.
    with seeded():
        return iter(list(_pairs(source, split)))


def same_without(source: TaskSource, rows: Sequence[Row], fields: frozenset[str]) -> bool:
    """Whether rows of the scored file read the same without these fields; no for rows that cannot be read."""
    fewer = [Row(row.number, {key: value for key, value in row.fields.items() if key not in fields}) for row in rows]
    try:
        whole, without = ([texts for _, texts in _read(source, "scored", given)] for given in (rows, fewer))
        return whole == without
    except (Exception, SystemExit):
        return False


def is_steady(source: TaskSource, rows: Sequence[Row]) -> bool:
    """Whether the task's code words rows of train in the same way when it is asked twice."""
    first, second = ([_mark(asked.requests) for asked, _ in _read(source, "train", rows)] for _ in range(2))
    return first == second


def digest_of_requests(task: "ConfigurableTask") -> str:
    """Digest of the rows whose requests were built, the same as that of their `Pair.mark`s."""
    rows: dict[int, list[Instance]] = defaultdict(list)
    for request in sorted(task.instances, key=lambda request: (request.doc_id, request.idx)):
        rows[request.doc_id].append(request)
    return digest_of(_mark(requests) for requests in rows.values())


def _mark(requests: "Sequence[Instance]") -> bytes:
    return mark_of(requests[0].doc, [text for request in requests for text in request.args])


def _read(source: TaskSource, split: Split, rows: Sequence[Row]) -> "list[tuple[_Asked, tuple[str | None, str]]]":
    with seeded():
        task = _attempt(source, split, rows)
        return [(asked := _asked(task, doc), _answer(task, doc, asked)) for doc in task.eval_docs]


def _pairs(source: TaskSource, split: Split) -> Iterator[Pair]:
    rows = split_rows(source, split)
    _require_fields(source, split, rows)
    task = _build(source, split, rows)
    code = code_of(source)
    # A definition that drops or adds rows leaves no way to tell where a row came from but its place.
    numbers = [row.number for row in rows] if len(task.eval_docs) == len(rows) else range(1, len(task.eval_docs) + 1)
    for number, doc in zip(numbers, task.eval_docs, strict=True):
        place = f"{source.file(split)}, row {number}"
        with translated(f"{place}: task {source.name!r} cannot read it", quote=False, code=code):
            try:
                asked = _asked(task, doc)
                prompt, answer = _answer(task, doc, asked)
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
        if source.template == "reference":
            answer = answer.removeprefix(task.config.target_delimiter)
        yield Pair(number, prompt, answer, _mark(asked.requests))


def _build(source: TaskSource, split: Split, rows: list[Row]) -> "ConfigurableTask":
    try:
        return _attempt(source, split, rows, begin_as_lm_eval=split == "scored")
    except CrashError:
        raise
    except (Exception, SystemExit) as error:  # the definition's own code ran on the rows; its text may quote them
        failing = last_of_shortest(rows, lambda part: _works(source, split, part))
        place = f"{source.file(split)}, row {failing.number}"
        if field := field_read(source, error):
            raise InputError(f"{place}: it lacks the field {field!r}, which task {source.name!r} reads") from None
        what, advice = f"{place}: task {source.name!r} cannot read it", f"Its definition is {source.yaml}"
        with translated(what, advice, quote=False, code=code_of(source)):
            raise


@seeded()
def _attempt(
    source: TaskSource, split: Split, rows: Sequence[Row], begin_as_lm_eval: bool = False
) -> "ConfigurableTask":
    """lm-eval's task over these rows. Raises whatever the definition's code raises on them.

    begin_as_lm_eval: draw the random numbers first that lm-eval's command draws before it comes to these rows.
    """
    from lm_eval.api.task import ConfigurableTask

    quiet()
    config = load_definition(source)
    docs = make_table(Path(source.file(split)), list(rows))
    if config.get("process_docs"):
        if begin_as_lm_eval:
            process_examples(source, config)
        docs = config["process_docs"](docs)
        if not hasattr(docs, "features"):
            kind = type(docs).__name__
            raise InputError(f"task {source.name!r}: process_docs of {source.yaml} gives a {kind}, expected a data set")
    if not len(docs):
        raise InputError(f"{source.file(split)}: task {source.name!r} uses none of its rows")
    for key in (*STRUCTURE, *DATA_KEYS, "process_docs"):
        config.pop(key, None)
    asked = False

    def hand_over(**_: Any) -> dict[str, Any]:
        nonlocal asked
        asked = True
        return {"rows": docs}

    config |= {"custom_dataset": hand_over, "test_split": "rows", "num_fewshot": 0}
    try:
        return ConfigurableTask(config=config)
    except Exception:
        if asked:
            raise
        # No row was read yet, so the definition itself is at fault, and its text quotes none.
        with translated(f"task {source.name!r}: lm-eval cannot use its definition {definition_of(source)}"):
            raise


def _works(source: TaskSource, split: Split, rows: Sequence[Row]) -> bool:
    """Whether the definition's code can be run on these rows; one that leaves none of them can."""
    try:
        _attempt(source, split, rows)
    except CrashError:
        return True
    except (Exception, SystemExit):
        return False
    return True


def _require_fields(source: TaskSource, split: Split, rows: list[Row]) -> None:
    """InputError for a row that lacks a field which the task reads."""
    load_definition(source)  # what is wrong with the definition itself is no row's fault

    def read(row: Row) -> None:
        task = _attempt(source, split, [row])
        _answer(task, doc := task.eval_docs[0], _asked(task, doc))

    if found := find_lacking(rows, read):
        row, fields = found
        names = ", ".join(repr(field) for field in fields)
        place = f"{source.file(split)}, row {row.number}"
        raise InputError(f"{place}: it lacks the field {names}, which task {source.name!r} reads")


class _Asked(NamedTuple):
    """What lm-eval asks about one row; choices are empty for other tasks than those of multiple choice."""

    requests: "list[Instance]"
    choices: list[str]


def _asked(task: "ConfigurableTask", doc: dict[str, Any]) -> _Asked:
    choices = _choices(task, doc) if task.OUTPUT_TYPE == "multiple_choice" else []
    prefix = task.doc_to_prefix(doc)
    context = task.fewshot_context(doc=doc, num_fewshot=0, gen_prefix=prefix)
    requests = task.construct_requests(doc=doc, ctx=context)
    return _Asked(requests if isinstance(requests, list) else [requests], choices)


def _answer(task: "ConfigurableTask", doc: dict[str, Any], asked: _Asked) -> tuple[str | None, str]:
    """(prompt, answer) of one row: the arguments of the request that lm-eval counts as right."""
    arguments = asked.requests[0].args
    if task.OUTPUT_TYPE == "multiple_choice":
        return asked.requests[_gold(task, doc, asked.choices)].args
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return None, arguments[0]
    if task.OUTPUT_TYPE == "generate_until":
        return arguments[0], task.config.target_delimiter + right_answer(task, doc)
    return arguments


def _choices(task: "ConfigurableTask", doc: dict[str, Any]) -> list[str]:
    """The choices of one row. lm-eval would take a text apart into letters, and fail on numbers after it has scored."""
    choices: Any = task.doc_to_choice(doc)
    if not isinstance(choices, list | tuple):
        raise InputError(f"its choices (doc_to_choice) are a {type(choices).__name__}, expected a list of texts")
    others = [choice for choice in choices if not isinstance(choice, str)]
    if others and not callable(task.config.process_results):
        raise InputError(f"one of its choices (doc_to_choice) is a {type(others[0]).__name__}, expected a text")
    return list(choices)


def _gold(task: "ConfigurableTask", doc: dict[str, Any], choices: list[str]) -> int:
    """Index of the right choice; of several right ones the first."""
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(target, list):
        if not target:
            raise InputError("no choice is marked as right")
        target = target[0]
    if target is None:
        raise InputError("its label is null")
    if isinstance(target, str):
        if target not in choices:
            raise InputError(f"the label is none of the {len(choices)} choices")
        return choices.index(target)
    if not 0 <= int(target) < len(choices):
        raise InputError(
            f"the label is {int(target)}, out of range for {len(choices)} choices (0 to {len(choices) - 1})"
        )
    return int(target)


def right_answer(task: "ConfigurableTask", doc: dict[str, Any]) -> str:
    """The text that a model should write for one row, without what separates it from the prompt."""
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        if not target:
            raise InputError("it has no answer")
        target = target[0]
    if target is None:
        raise InputError("its answer is null")
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return str(target)
