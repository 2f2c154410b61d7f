"""What a run says: readable from start to end, one clear line for an error that a user can mend."""

import logging

from tasks.core.errors import CrashError

# What Prefect logs of tasks that could not run because the run was over.
CONSEQUENCES = ("cancelled by the task runner", "NotReady(", "InterruptedRun")
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine")


class OneLine(logging.Filter):
    """Errors that we raise for users are one clear line; a traceback would bury it.

    Tasks that were only waiting when the run ended say nothing: what ended the run is said once.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if any(words in record.getMessage() for words in CONSEQUENCES):
            return False
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, CrashError) and error.exit_code != 1:
            record.exc_info, record.exc_text = None, None
        return True


def quiet_prefect() -> None:
    """Filter what Prefect logs in this process; again and again does no harm."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(found, OneLine) for found in logger.filters):
            logger.addFilter(OneLine())
