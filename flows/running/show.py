"""Pass a finished run's results on to MLflow, and a Markdown report to Prefect."""

import logging
from typing import TYPE_CHECKING, Any

from flows.running.environment import prefect_page
from tasks.artifacts.audit import AUDIT_FILE, AUDIT_PICTURE
from tasks.artifacts.party_report import PARTY_FILE, PARTY_PAGE
from tasks.artifacts.plan import PLAN_FILE, plan_summary
from tasks.artifacts.report import read_report
from tasks.artifacts.search_table import BEST_FILE, FRONTIER_PICTURE, SEARCH_FILE, read_search_table
from tasks.artifacts.study.study_report import (
    PAGE_WITHOUT_WORDS,
    STUDY_FILE,
    STUDY_PAGE,
    STUDY_TABLE,
    read_study_report,
    read_study_table,
)
from tasks.artifacts.tables import LONG_TABLE, MARKDOWN_TABLE, read_table
from tasks.store.manifests import MANIFEST
from tasks.tracking.tracking import Tracking

if TYPE_CHECKING:
    from flows.running.run import Run
    from flows.settings.kinds import StudySettings

logger = logging.getLogger(__name__)
LINK_SECONDS = 3.0
SHOWN = (".png", ".csv", ".html", ".md", ".json")


def show_results(run: "Run", tracking: Tracking) -> None:
    """Pass the report's files, numbers and table on to MLflow and Prefect."""
    assert run.report is not None
    store = run.runtime.open_store()
    folder = store.open(run.report)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in SHOWN and path.name != MANIFEST]
    tracking.files([path for path in files if path.suffix == ".png"], "figures")
    tracking.files([path for path in files if path.suffix != ".png"], "report")
    for ref in run.context.used:
        if ref.stage == "cluster":
            tracking.files([store.open(ref) / PLAN_FILE], f"plans/{plan_summary(ref)['strategy']}")
    numbers = read_report(folder)
    tracking.values(flat_numbers(numbers["rows"]))
    table = read_table(folder)
    page = prefect_page(run.runtime.run_id)
    tracking.describe(table + (f"\n[Prefect run]({page})\n" if page else ""), {"report.key": run.report.key})
    _show_in_prefect(table, numbers["rows"], run, tracking)


def flat_numbers(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return a report's rows as metrics `crash/plug_in`, `crash/plug_in_stderr`, ..."""
    numbers = {}
    for row in rows:
        name = "/".join(part for part in (row.get("strategy"), row["setting"]) if part)
        numbers[name] = row["value"]
        if row.get("stderr") is not None:
            numbers[f"{name}_stderr"] = row["stderr"]
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _show_in_prefect(table: str, rows: list[dict[str, Any]], run: "Run", tracking: Tracking) -> None:
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    computed = {ref.key for ref in run.context.computed}
    stages = [
        {"stage": ref.stage, "key": ref.key[:16], "digest": ref.digest[:16], "was": _was(ref.key in computed)}
        for ref in {ref.key: ref for ref in run.context.used}.values()
    ]
    try:
        create_markdown_artifact(markdown=table, key="report", description="The five settings")
        create_table_artifact(table=rows, key="scores", description="Every score, one a row")
        create_table_artifact(table=stages, key="stages", description="What this run used of the store")
        # A run whose stages are all found is over before the server has given it an address.
        if run.settings.tracking_uri and (url := tracking.url(seconds=LINK_SECONDS)):
            create_link_artifact(link=url, link_text="MLflow run", key="mlflow")
    except Exception as error:
        # The store has the report; without the server only its copy is lost.
        logger.warning("Prefect did not take the report (%s)", type(error).__name__)


def _was(computed: bool) -> str:
    return "computed" if computed else "found"


def show_search(run: "Run", tracking: Tracking) -> None:
    """Pass the table and the picture of a search on to MLflow and Prefect."""
    assert run.report is not None
    folder = run.runtime.open_store().open(run.report)
    tracking.files([folder / FRONTIER_PICTURE], "figures")
    tracking.files([folder / name for name in (LONG_TABLE, MARKDOWN_TABLE, SEARCH_FILE.name, BEST_FILE)], "search")
    rows = read_search_table(folder)["rows"]
    shown = {f"{row['name']}/{name}": row[name] for row in rows for name in ("plug_in_loss", "gain", "privacy_gap")}
    tracking.values({name: float(value) for name, value in shown.items() if value is not None})
    table = read_table(folder)
    tracking.describe(table, {"frontier.key": run.report.key})
    _show_table(table, "Every plan of the search")


def show_study(run: "Run[StudySettings]", tracking: Tracking) -> None:
    """Pass the page, the figures and the numbers of a study on to MLflow and Prefect."""
    assert run.report is not None
    folder = run.runtime.open_store().open(run.report)
    private = [] if run.settings.study.track_text else read_study_report(folder)["private"]
    if private:
        words = "%d figure(s) with words of rows stay in %s, with the page that has them; study.track_text sends them"
        logger.warning(f"{words} to MLflow", len(private), folder)
    page = PAGE_WITHOUT_WORDS if private else STUDY_PAGE
    for suffix, place in ((".png", "figures"), (".csv", "numbers")):
        tracking.files([path for path in sorted(folder.glob(f"*{suffix}")) if path.stem not in private], place)
    tracking.files([folder / name for name in (page, STUDY_TABLE, STUDY_FILE.name)], "study")
    tracking.values({name: float(value) for name, value in run.report.summary.items()})
    table = read_study_table(folder)
    tracking.describe(table, {"findings.key": run.report.key})
    _show_table(table, "The study in numbers")


def show_party(run: "Run", tracking: Tracking) -> None:
    """Pass the table and the page of one party of an exchange on to MLflow and Prefect."""
    assert run.report is not None
    folder = run.runtime.open_store().open(run.report)
    tracking.files([folder / name for name in (PARTY_PAGE, MARKDOWN_TABLE, LONG_TABLE, PARTY_FILE.name)], "report")
    tracking.values({name: float(value) for name, value in run.report.summary.items()})
    table = read_table(folder)
    tracking.describe(table, {"party_report.key": run.report.key})
    _show_table(table, "What was exchanged")


def show_audit(run: "Run", tracking: Tracking) -> None:
    """Pass the table, the picture and the numbers of a recovery audit on to MLflow and Prefect."""
    assert run.report is not None
    folder = run.runtime.open_store().open(run.report)
    found, table = AUDIT_FILE.read(folder), read_table(folder)
    tracking.files([folder / AUDIT_PICTURE], "figures")
    tracking.files([folder / name for name in (LONG_TABLE, MARKDOWN_TABLE, AUDIT_FILE.name)], "report")
    losses = {f"{row['hidden']}/{row['fill']}": (row["loss"], row["recovery"]) for row in found["losses"]}
    tracking.values({f"{name}/loss": loss for name, (loss, _) in losses.items()} | {"full/loss": found["full_loss"]})
    tracking.values({f"{name}/recovery": share for name, (_, share) in losses.items()})
    tracking.describe(table, {"audit_report.key": run.report.key})
    _show_table(table, "What comes back of hidden blocks")


def _show_table(table: str, description: str) -> None:
    """Show the table as the run's report in Prefect; without the server only this copy of it is lost."""
    from prefect.artifacts import create_markdown_artifact

    try:
        create_markdown_artifact(markdown=table, key="report", description=description)
    except Exception as error:
        logger.warning("Prefect did not take the table (%s)", type(error).__name__)
