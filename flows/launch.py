"""Start a run from the command line: refuse bad input first, then Prefect, then say where everything is."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from flows.environment import check_prefect, prepare_environment
from flows.guard import start_temporary_server
from flows.settings import Settings
from tasks.core.errors import CrashError, EnvironmentFault
from tasks.store.artifacts import Ref, Store
from tasks.store.sender import warm_up
from tasks.store.servers import shown

# Without the last part MLflow shows its pages for chat agents instead of those for training.
LOCAL_PAGE = "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"


def launch(settings: Settings) -> int:
    """Run the `crash` flow in this process; exit code."""
    home = Path(settings.place.home)
    prepare_environment(home)
    from flows.running import Inputs

    check_prefect()
    Inputs(settings)
    _make_home(home)
    begun = time.monotonic()
    from flows.crash import crash

    _quiet_prefect()
    _end_at_once_on_second_interrupt()
    warm_up()
    start_temporary_server()
    report = crash(settings)
    _print_summary(settings, report, time.monotonic() - begun)
    return 0


def _make_home(home: Path) -> None:
    """Prefect and MLflow make their folders in it, but not itself. Raises EnvironmentFault."""
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(
            f"the home folder {home} cannot be made ({error.strerror}); choose another one (place.home)"
        ) from error


# What Prefect logs of tasks that could not run because the run was over.
CONSEQUENCES = ("cancelled by the task runner", "NotReady(", "InterruptedRun")


class _OneLine(logging.Filter):
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


def _end_at_once_on_second_interrupt() -> None:
    """First Ctrl-C: write checkpoints, then end. Second one: end now; what was computing dies with this process."""
    seen = False

    def handle(number: int, frame: Any) -> None:
        nonlocal seen
        if seen:
            os._exit(128 + number)
        seen = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)


def _quiet_prefect() -> None:
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.flow_engine", "prefect.task_engine"):
        logging.getLogger(name).addFilter(_OneLine())


def _print_summary(settings: Settings, report: Ref, seconds: float) -> None:
    folder = Store(settings.store_root).open(report)
    print("\n" + (folder / "table.md").read_text())
    print(f"\nFinished in {seconds:.0f} s.")
    print(f"Report:  {folder / 'report.html'}")
    print(f"MLflow:  {mlflow_command(settings)}")
    if not settings.place.mlflow:
        print(f"         then open {LOCAL_PAGE}")


def mlflow_command(settings: Settings) -> str:
    """The command that opens the MLflow UI on this run's tracking data."""
    if settings.place.mlflow:
        return f"open {shown(settings.place.mlflow)}"
    import sys

    database = Path(settings.place.home).absolute() / "mlflow" / "mlflow.db"
    program = Path(sys.executable).parent / "mlflow"
    return f"{program} server --backend-store-uri sqlite:///{database} --host 127.0.0.1 --port 5000"
