"""lm-eval's own tasks over given rows, and the text of these rows.

Each split is given to lm-eval as the split that it scores, so the code that builds scored text builds training text
too.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tasks.core.errors import CrashError, InputError
from tasks.data.lm_eval.code import code_of, field_read, load_definition
from tasks.data.lm_eval.examples import FewShot
from tasks.data.lm_eval.requests import answer_of, ask
from tasks.data.lm_eval.seeding import seeded
from tasks.data.lm_eval.task import attempt
from tasks.data.rows.reading import Row
from tasks.data.rows.required_fields import find_lacking
from tasks.data.rows.tables import last_of_shortest
from tasks.data.sources import Split, TaskSource
from tasks.data.splits.division import split_rows
from tasks.store.boundary import translated

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


class Pair(NamedTuple):
    """A prompt and its right answer as text; `prompt` is None for a document that is scored as a whole.

    requests: every (prompt, choice) whose likelihoods lm-eval compares in this row; empty where there are no choices.
    mark: mark of the row as lm-eval reads it (see `tasks.data.wording`).
    """

    number: int
    prompt: str | None
    answer: str
    requests: tuple[tuple[str, str], ...] = ()
    mark: bytes = b""


@contextmanager
def without_bars() -> Iterator[None]:
    """Disable the progress bar that lm-eval draws while it builds requests, for which it has no option.

    Its thread too, which tqdm makes for a disabled bar: a stop that arrives meanwhile would become a warning.
    """
    from lm_eval.api import task as module
    from tqdm import tqdm

    seconds, tqdm.monitor_interval = tqdm.monitor_interval, 0
    module.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        module.tqdm, tqdm.monitor_interval = tqdm, seconds


def harness_task(source: TaskSource, split: Split, num_fewshot: int = 0) -> "ConfigurableTask":
    """Build lm-eval's task, which scores the rows of one split. num_fewshot: examples in front of each row.

    Build its requests inside `seeded`: the definition's code may draw random numbers then, too.

    Raises:
        InputError: when it cannot read a row, or there are fewer examples.
    """
    rows = split_rows(source, split)
    _require_fields(source, split, rows)
    task = _build(source, split, rows)
    if not num_fewshot:
        return task
    # The rows can be read, so that what fails now is the choice of examples.
    with cannot_word_examples(source):
        return attempt(source, split, rows, split == "scored", FewShot(num_fewshot, partial(split_rows, source)))


def cannot_word_examples(source: TaskSource) -> AbstractContextManager[None]:
    """Translate errors of lm-eval and of the definition's code where rows get others as examples in front."""
    what = f"task {source.name!r}: lm-eval cannot word its rows with other rows as examples in front"
    return translated(what, "Take evaluate.num_fewshot = 0", quote=False, code=code_of(source))


def built_task(source: TaskSource, split: Split, num_fewshot: int = 0) -> "ConfigurableTask":
    """Build lm-eval's task as `harness_task`, with its requests, as lm-eval's command does.

    Raises:
        InputError: as `harness_task`, or when rows cannot be worded with examples.
    """
    with seeded(), without_bars():
        task = harness_task(source, split, num_fewshot)
        with cannot_word_examples(source) if num_fewshot else nullcontext():
            task.build_all_requests()
    return task


def answers(source: TaskSource, split: Split) -> Iterator[Pair]:
    """Return prompt and right answer of every row of a split, as lm-eval words them when it scores that split.

    The reference template leaves out the delimiter between them (see `tasks.data.templates`), and a chat has none.
    """
    # All rows at once: a lazy iterator would change the caller's generators between rows.
    with seeded():
        return iter(list(_pairs(source, split)))


def _pairs(source: TaskSource, split: Split) -> Iterator[Pair]:
    rows = split_rows(source, split)
    _require_fields(source, split, rows)
    task = _build(source, split, rows)
    code = code_of(source)
    # If a definition drops or adds rows, only the position of a row identifies it.
    numbers = [row.number for row in rows] if len(task.eval_docs) == len(rows) else range(1, len(task.eval_docs) + 1)
    for number, doc in zip(numbers, task.eval_docs, strict=True):
        place = f"{source.file(split)}, row {number}"
        with translated(f"{place}: task {source.name!r} cannot read it", quote=False, code=code):
            try:
                asked = ask(task, doc)
                prompt, answer = answer_of(task, doc, asked)
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
        if source.template == "reference" or (source.chat and task.OUTPUT_TYPE == "generate_until"):
            answer = answer.removeprefix(task.config.target_delimiter)
        yield Pair(number, prompt, answer, asked.compared, asked.mark)


def _build(source: TaskSource, split: Split, rows: list[Row]) -> "ConfigurableTask":
    try:
        return attempt(source, split, rows, begin_as_lm_eval=split == "scored")
    except CrashError:
        raise
    except (Exception, SystemExit) as error:  # from the definition's own code on the rows, which it may quote
        failing = last_of_shortest(rows, lambda part: _works(source, split, part))
        place = f"{source.file(split)}, row {failing.number}"
        if field := field_read(source, error):
            raise InputError(f"{place}: it lacks the field {field!r}, which task {source.name!r} reads") from None
        what, advice = f"{place}: task {source.name!r} cannot read it", f"Its definition is {source.yaml}"
        with translated(what, advice, quote=False, code=code_of(source)):
            raise


def _works(source: TaskSource, split: Split, rows: Sequence[Row]) -> bool:
    """Return whether the definition's code runs on these rows, also where it leaves none of them."""
    try:
        attempt(source, split, rows)
    except CrashError:
        return True
    except (Exception, SystemExit):
        return False
    return True


def _require_fields(source: TaskSource, split: Split, rows: list[Row]) -> None:
    """Check that each row has the fields that the task reads.

    Raises:
        InputError: when a row lacks one.
    """
    load_definition(source)  # an error in the definition itself must not be blamed on a row

    def read(row: Row) -> None:
        task = attempt(source, split, [row])
        answer_of(task, doc := task.eval_docs[0], ask(task, doc))

    if found := find_lacking(rows, read):
        row, fields = found
        names = ", ".join(repr(field) for field in fields)
        place = f"{source.file(split)}, row {row.number}"
        raise InputError(f"{place}: it lacks the field {names}, which task {source.name!r} reads")
