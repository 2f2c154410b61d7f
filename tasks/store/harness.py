"""The one place that speaks lm-eval's own objects: a task over given rows, and which of its requests is the answer.

A split is handed to lm-eval as if it were the one it scores, so training text is built by the code that builds scored
text.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.core.errors import InputError
from tasks.store import task_files
from tasks.store.model_files import read_json
from tasks.store.rows import Row
from tasks.store.splits import split_rows
from tasks.store.task_sources import DATA_KEYS, FEATURES_FILE, Split, TaskSource

if TYPE_CHECKING:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

STRUCTURE = ("tag", "group", "task_list", "include")


class Pair(NamedTuple):
    """A prompt and its right answer as text; `prompt` is None for a document that is scored as a whole.

    requests: every (prompt, choice) whose likelihoods lm-eval compares in this row; empty where there are no choices.
    """

    number: int
    prompt: str | None
    answer: str
    requests: tuple[tuple[str, str], ...] = ()


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
    """lm-eval's task, zero-shot, scoring the rows of one split. InputError for rows that it cannot read."""
    rows = split_rows(source, split)
    _require_fields(source, split, rows)
    return _build(source, split, rows)


def answers(source: TaskSource, split: Split) -> Iterator[Pair]:
    """Prompt and right answer of every row of a split, as lm-eval words them when it scores that split.

    The reference template leaves out the delimiter between them (see `tasks.store.templates`).
    """
    rows = split_rows(source, split)
    _require_fields(source, split, rows)
    task = _build(source, split, rows)
    # A definition that drops or adds rows leaves no way to tell where a row came from but its place.
    numbers = [row.number for row in rows] if len(task.eval_docs) == len(rows) else range(1, len(task.eval_docs) + 1)
    for number, doc in zip(numbers, task.eval_docs, strict=True):
        try:
            prompt, answer, requests = _answer(task, doc)
        except InputError as error:
            raise InputError(f"{source.file(split)}, row {number}: {error}") from None
        except Exception as error:  # whatever a definition's own code raises; its text may quote the row
            raise InputError(
                f"{source.file(split)}, row {number}: task {source.name!r} cannot read it ({type(error).__name__})"
            ) from None
        if source.template == "reference":
            answer = answer.removeprefix(task.config.target_delimiter)
        yield Pair(number, prompt, answer, requests)


def _build(source: TaskSource, split: Split, rows: list[Row]) -> "ConfigurableTask":
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    quiet()
    assert source.yaml is not None
    config = load_yaml(source.yaml)
    try:
        docs = _dataset(source, split, rows)
        if config.get("process_docs"):
            docs = config["process_docs"](docs)
        if not len(docs):
            raise InputError(f"{source.file(split)}: task {source.name!r} uses none of its rows")
        for key in (*STRUCTURE, *DATA_KEYS, "process_docs"):
            config.pop(key, None)
        config |= {"custom_dataset": lambda **_: {"rows": docs}, "test_split": "rows", "num_fewshot": 0}
        return ConfigurableTask(config=config)
    except InputError:
        raise
    except Exception as error:  # the definition's own code ran on the rows; its text may quote them
        place = f"{source.file(split)}, row {rows[0].number}"
        if field := _field_read(source, error):
            raise InputError(f"{place}: it lacks the field {field!r}, which task {source.name!r} reads") from None
        raise InputError(
            f"{place}: task {source.name!r} cannot read it ({type(error).__name__}), nor perhaps the rows after it;"
            f" its definition is {source.yaml}"
        ) from None


def _dataset(source: TaskSource, split: Split, rows: list[Row]) -> "Dataset":
    import pyarrow
    from datasets import Dataset, Features

    fields = list(dict.fromkeys(key for row in rows for key in row.fields))
    path = Path(source.file(split)).parent / FEATURES_FILE
    features = Features.from_dict(read_json(path)) if path.is_file() else None
    try:
        return Dataset.from_list([{key: row.fields.get(key) for key in fields} for row in rows], features=features)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, TypeError):
        raise InputError(f"{source.file(split)}: {_mixed(rows, fields)}") from None


def _mixed(rows: list[Row], fields: list[str]) -> str:
    """Which row holds another kind of value than the rows before it."""
    for field in fields:
        kinds: dict[str, int] = {}
        for row in rows:
            value = row.fields.get(field)
            if value is not None:
                kinds.setdefault(type(value).__name__, row.number)
            if len(set(kinds) - {"int", "float"}) > 1 or (len(kinds) == 2 and {"int", "float"} != set(kinds)):
                (first, at), (other, where) = list(kinds.items())[:2]
                return f"row {where}: the field {field!r} is a {other}, in row {at} it is a {first}"
    return "the rows disagree in the kinds of their values inside a field"


def _require_fields(source: TaskSource, split: Split, rows: list[Row]) -> None:
    """InputError for a row that lacks a field which the task reads.

    Which fields a definition's code reads cannot be seen from outside, so one row of each set of fields that is less
    than the whole is tried alone.
    """
    every = {key for row in rows for key in row.fields}
    tried: set[frozenset[str]] = set()
    for row in rows:
        present = {key for key, value in row.fields.items() if value is not None}
        lacking = frozenset(every - present)
        if lacking and lacking not in tried:
            tried.add(lacking)
            alone = Row(row.number, {key: row.fields[key] for key in present})
            try:
                task = _build(source, split, [alone])
                _answer(task, task.eval_docs[0])
            except Exception:
                names = ", ".join(repr(key) for key in sorted(lacking))
                place = f"{source.file(split)}, row {row.number}"
                raise InputError(f"{place}: it lacks the field {names}, which task {source.name!r} reads") from None


def _field_read(source: TaskSource, error: Exception) -> str | None:
    """The field that the error misses, if it is one that the definition or its code names (else it may be data)."""
    found = re.match(r"'(\w+)' is undefined$|'(\w+)'$", str(error))
    if found is None or source.yaml is None:
        return None
    name = found[1] or found[2]
    definition = str(task_files.merged(Path(source.yaml)))
    texts = [definition, *(file.read_text() for file in task_files.code_files(Path(source.yaml)))]
    return name if any(re.search(rf"\b{name}\b", text) for text in texts) else None


def _answer(task: "ConfigurableTask", doc: dict[str, Any]) -> tuple[str | None, str, tuple[tuple[str, str], ...]]:
    """(prompt, answer) of one row: the arguments of the request that lm-eval counts as right; and of all requests."""
    prefix = task.doc_to_prefix(doc)
    context = task.fewshot_context(doc=doc, num_fewshot=0, gen_prefix=prefix)
    requests = task.construct_requests(doc=doc, ctx=context)
    if task.OUTPUT_TYPE == "multiple_choice":
        assert isinstance(requests, list)
        choices = task.doc_to_choice(doc)
        return *requests[_gold(task, doc, choices)].args, tuple(request.args for request in requests)
    assert not isinstance(requests, list)
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return None, requests.args[0], ()
    if task.OUTPUT_TYPE == "generate_until":
        return context, task.config.target_delimiter + _target_text(task, doc), ()
    return *requests.args, ()


def _gold(task: "ConfigurableTask", doc: dict[str, Any], choices: list[str]) -> int:
    """Index of the right choice; of several right ones the first."""
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(target, list):
        if not target:
            raise InputError("no choice is marked as right")
        target = target[0]
    if isinstance(target, str):
        if target not in choices:
            raise InputError(f"the label is none of the {len(choices)} choices")
        return choices.index(target)
    if not 0 <= int(target) < len(choices):
        raise InputError(
            f"the label is {int(target)}, out of range for {len(choices)} choices (0 to {len(choices) - 1})"
        )
    return int(target)


def _target_text(task: "ConfigurableTask", doc: dict[str, Any]) -> str:
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        target = target[0]
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return str(target)
