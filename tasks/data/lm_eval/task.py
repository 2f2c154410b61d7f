"""Build lm-eval's own task over given rows, whichever rows these are."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.chat import render
from tasks.data.lm_eval.chats import word_as_chat
from tasks.data.lm_eval.code import definition_of, load_definition, process_examples
from tasks.data.lm_eval.examples import EXAMPLES, FewShot, choose_examples, example_keys
from tasks.data.lm_eval.seeding import seeded
from tasks.data.rows.reading import Row
from tasks.data.rows.tables import make_table
from tasks.data.sources import DATA_KEYS, Split, TaskSource
from tasks.store.boundary import translated

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

STRUCTURE = ("tag", "group", "task_list", "include")


def quiet() -> None:
    """Turn off progress bars, and lm-eval's log lines, some of which quote rows."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)


@seeded()
def attempt(
    source: TaskSource,
    split: Split,
    rows: Sequence[Row],
    begin_as_lm_eval: bool = False,
    few_shot: FewShot | None = None,
) -> "ConfigurableTask":
    """Build lm-eval's task over these rows. Errors of the definition's code are passed on as they are.

    begin_as_lm_eval: first draw the random numbers that lm-eval's command draws before it comes to these rows.
    few_shot: examples in front of each row.

    Raises:
        InputError: when the definition cannot be used, or leaves none of the rows.
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
    chosen, examples = example_keys(source, config, few_shot) if few_shot else ({}, None)
    for key in (*STRUCTURE, *DATA_KEYS, "process_docs"):
        config.pop(key, None)
    asked = False

    def hand_over(**_: Any) -> dict[str, Any]:
        nonlocal asked
        asked = True
        return {"rows": docs} | ({} if examples is None else {EXAMPLES: examples})

    config |= {
        "custom_dataset": hand_over,
        "test_split": "rows",
        "num_fewshot": few_shot.count if few_shot else 0,
        **chosen,
    }
    try:
        task = ConfigurableTask(config=config)
    except Exception:
        if asked:
            raise
        # No row has been read yet, so the definition itself is at fault, and the error quotes no row.
        with translated(f"task {source.name!r}: lm-eval cannot use its definition {definition_of(source)}"):
            raise
    _add_examples_and_chat(task, source, few_shot)
    return task


def _add_examples_and_chat(task: "ConfigurableTask", source: TaskSource, few_shot: FewShot | None) -> None:
    """Let the task put examples in front of its rows, and word them as a chat, where that is wanted."""
    if few_shot:
        choose_examples(task, source, few_shot)
    if source.chat:
        word_as_chat(task, partial(render, source.chat))
