"""Start runs from the command line: check the input, run the flow, then print where the results are."""

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from flows.running import stopping
from flows.running.environment import check_prefect, local_database, prepare_environment
from flows.running.guard import start_temporary_server
from flows.running.logs import quiet_prefect
from flows.settings.kinds import SearchSettings, StudySettings
from flows.settings.run import Settings
from flows.settings.tables import Place
from tasks.artifacts.party_report import PARTY_PAGE
from tasks.artifacts.report import REPORT_PAGE
from tasks.artifacts.search_table import FRONTIER_PICTURE
from tasks.artifacts.study.study_report import STUDY_PAGE, STUDY_TABLE
from tasks.artifacts.sweep_table import SWEEP_PAGE
from tasks.artifacts.tables import MARKDOWN_TABLE
from tasks.core.errors import EnvironmentFault
from tasks.engine.child_process import fix_environment
from tasks.store.artifacts import Ref
from tasks.store.databases import sqlite_path, sqlite_url
from tasks.store.remote.store import open_store
from tasks.tracking.mlflow_sender import warm_up
from tasks.tracking.servers import redact_url

# Without the last part MLflow shows its pages for chat agents instead of those for training.
LOCAL_PAGE = "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"


def launch(settings: Settings) -> int:
    """Run the `crash` flow in this process; return the exit code."""
    prepare(settings.place)
    from flows.running.inputs import prepare_inputs

    prepare_inputs(settings)
    begun = time.monotonic()
    from flows.crash import crash

    start(settings)
    folder = open_store(settings.store_root, settings.store_url).open(crash(settings))
    _print_summary(settings, folder / MARKDOWN_TABLE, folder / REPORT_PAGE, time.monotonic() - begun)
    return 0


def launch_sweep(settings: Settings, axes: dict[str, list[Any]], at_once: int | None, here: bool) -> int:
    """Run the `sweep` flow in this process, with its cells on the work pool if there is one; return the exit code."""
    prepare(settings.place)
    from flows.running.inputs import check_cells
    from flows.settings.grid import make_cells

    check_cells(make_cells(settings, axes))
    begun = time.monotonic()
    from flows.sweep import sweep

    start(settings)
    table = sweep(settings, axes, at_once, "here" if here else "auto")
    folder = open_store(settings.store_root, settings.store_url).open(table)
    _print_summary(settings, folder / MARKDOWN_TABLE, folder / SWEEP_PAGE, time.monotonic() - begun)
    return 0


def launch_search(settings: SearchSettings) -> int:
    """Run the `search` flow in this process; return the exit code."""
    prepare(settings.place)
    from flows.running.inputs import prepare_inputs
    from flows.running.pass_limits import search_limits
    from flows.searches.candidates import make_candidates, sizes_of

    make_candidates(settings, sizes_of(prepare_inputs(settings, limits=search_limits).model))
    begun = time.monotonic()
    from flows.search import search

    start(settings)
    folder = open_store(settings.store_root, settings.store_url).open(search(settings))
    _print_summary(settings, folder / MARKDOWN_TABLE, folder / FRONTIER_PICTURE, time.monotonic() - begun)
    return 0


def launch_study(settings: StudySettings, axes: dict[str, list[Any]]) -> int:
    """Run the `study` flow in this process; return the exit code."""
    prepare(settings.place)
    from flows.running.inputs import prepare_inputs
    from flows.studies.cells import make_cells_of, open_inputs

    open_inputs(make_cells_of(settings, axes), prepare_inputs)
    begun = time.monotonic()
    from flows.study import study

    start(settings)
    folder = open_store(settings.store_root, settings.store_url).open(study(settings, axes))
    _print_summary(settings, folder / STUDY_TABLE, folder / STUDY_PAGE, time.monotonic() - begun)
    return 0


def prepare(place: Place) -> None:
    """Settle what the environment says, before anything is checked."""
    prepare_environment(Path(place.home))
    check_prefect()


def start(settings: Settings) -> None:
    """Start what takes seconds, once the input is known to be valid."""
    _make_home(Path(settings.place.home))
    stopping.listen(also_when_ignored=True)
    fix_environment()
    if not settings.tracked_later:
        warm_up()
    quiet_prefect()
    start_temporary_server()


def finish(settings: Settings, report: Ref, begun: float, show_table: bool = True, shown: str = PARTY_PAGE) -> None:
    """Print the table of a party's report, and where its page is.

    begun: monotonic time of the start; shown: name of the file that is to be looked at.
    """
    folder = open_store(settings.store_root, settings.store_url).open(report)
    table = folder / MARKDOWN_TABLE if show_table else None
    _print_summary(settings, table, folder / shown, time.monotonic() - begun)


def _make_home(home: Path) -> None:
    """Make the home folder, in which Prefect and MLflow make only their own folders.

    Raises:
        EnvironmentFault: when it cannot be made.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(
            f"the home folder {home} cannot be made ({error.strerror}); choose another one (place.home)"
        ) from error


def _print_summary(settings: Settings, table: Path | None, result: Path, seconds: float) -> None:
    if table:
        print("\n" + table.read_text())
    print(f"\nFinished in {seconds:.0f} s.")
    print(f"Report:  {result}")
    if settings.tracked_later:
        print('MLflow:  the next run of this home without place.mlflow = "later" sends this one\'s results')
        return
    command = mlflow_command(settings)
    print(f"MLflow:  {command}")
    if not command.startswith("open "):
        print(f"         then open {LOCAL_PAGE}")


def mlflow_command(settings: Settings) -> str:
    """Return the command that opens the MLflow UI on this run's tracking data."""
    uri = settings.tracking_uri or local_database(Path(settings.place.home))
    if uri.startswith(("http:", "https:", "databricks")):
        return f"open {redact_url(uri)}"
    path = sqlite_path(uri)
    program = Path(sys.executable).parent / "mlflow"
    command = [str(program), "server", "--backend-store-uri", sqlite_url(path) if path else redact_url(uri)]
    return shlex.join([*command, "--host", "127.0.0.1", "--port", "5000"])
