"""The log of a run: readable from start to end, with one clear line for an error that the user can correct."""

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from flows.running.environment import TEMPORARY_SERVER
from tasks.core.errors import CrashError

logger = logging.getLogger(__name__)
# Messages that Prefect logs for tasks that could not run because the run was over.
CONSEQUENCES = ("cancelled by the task runner", "NotReady(", "InterruptedRun")
# How Prefect's line with the address of the run's page begins.
PAGE = "View at "
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine")


class OneLine(logging.Filter):
    """Filter that logs our errors for users as one line, without a traceback.

    It drops the messages of tasks that were still waiting when the run ended: the cause is logged once. It drops the
    address of the run's page, too, where the server ends with the run.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if any(words in message for words in CONSEQUENCES):
            return False
        if message.startswith(PAGE) and TEMPORARY_SERVER in os.environ:
            return False
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, CrashError) and error.exit_code != 1:
            record.exc_info, record.exc_text = None, None
        return True


def log_encoding(checked: Iterable[Mapping[str, Any]]) -> None:
    """Warn where the token ids of the inputs differ from those that the tokenizer or the model alone would give.

    checked: the facts from the check of each cell's inputs; lines that several cells have in common are logged once.
    """
    for line in dict.fromkeys(line for facts in checked for line in encoding_lines(facts)):
        logger.warning(line)


def encoding_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return a line for each rule of encoding that these inputs need."""
    lines = []
    if end := facts.get("end_tokens"):
        lines.append(
            f"the tokenizer puts {end} behind every text; it is left out everywhere: behind a prompt it would part it"
            " from its answer"
        )
    apart = {split: number for split in ("train", "validation", "scored") if (number := facts[f"num_{split}_apart"])}
    if apart:
        counts = ", ".join(f"{number} of {facts[f'num_{split}_rows']} {split} rows" for split, number in apart.items())
        lines.append(
            f"the tokenizer joins the end of a prompt with an answer: in {counts} prompt and every choice are encoded"
            " apart, in training and scoring alike (lm-eval has no score for them, or another one)"
        )
    if facts.get("window", facts["context"]) < facts["context"]:
        lines.append(
            f"documents are trained and scored in windows of {facts['window']} tokens (task.max_length), of the"
            f" {facts['context']} that the model takes"
        )
    return lines


def quiet_prefect() -> None:
    """Filter Prefect's log in this process, and let the process outlive the reader of its output. Idempotent."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(found, OneLine) for found in logger.filters):
            logger.addFilter(OneLine())
    for found in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(found, "handlers", []):
            if (console := getattr(handler, "console", None)) is not None:
                # A killed worker no longer reads what its runs print, and by default the process would end then.
                console.on_broken_pipe = _go_on


def _go_on() -> None:
    """Discard what is printed from now on; the server has the log as well."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
