"""Show a finished run: everything in MLflow, a markdown report in Prefect."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.environment import prefect_page
from tasks.store.artifacts import Store
from tasks.store.tracking import Tracking

if TYPE_CHECKING:
    from flows.running import Run

logger = logging.getLogger(__name__)
SHOWN = (".png", ".csv", ".html", ".md", ".json")


def show_results(run: "Run", tracking: Tracking) -> None:
    """Pass the report's files, numbers and table on to MLflow and Prefect."""
    assert run.report is not None
    store = Store(Path(run.runtime.store))
    folder = store.open(run.report)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in SHOWN and path.name != "manifest.json"]
    tracking.files([path for path in files if path.suffix == ".png"], "figures")
    tracking.files([path for path in files if path.suffix != ".png"], "report")
    for ref in run.own.used:
        if ref.stage == "cluster":
            tracking.files([store.open(ref) / "plan.json"], f"plans/{ref.summary['strategy']}")
    tracking.values(flat_numbers(json.loads((folder / "report.json").read_text())))
    table = (folder / "table.md").read_text()
    page = prefect_page(run.runtime.run_id)
    tracking.describe(table + (f"\n[Prefect run]({page})\n" if page else ""), {"report.key": run.report.key})
    _show_in_prefect(table, run, tracking)


def flat_numbers(report: dict[str, Any]) -> dict[str, float]:
    """`crash/plug_in`, `crash/plug_in_stderr`, ... from the report's rows."""
    numbers = {}
    for row in report["rows"]:
        name = "/".join(part for part in (row.get("strategy"), row["setting"]) if part)
        numbers[name] = row["value"]
        if row.get("stderr") is not None:
            numbers[f"{name}_stderr"] = row["stderr"]
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _show_in_prefect(table: str, run: "Run", tracking: Tracking) -> None:
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    try:
        create_markdown_artifact(markdown=table, key="report", description="The five settings")
        if url := tracking.url():
            create_link_artifact(link=url, link_text="MLflow run", key="mlflow")
    except Exception as error:
        # The store has the report; a server that is away costs only its copy.
        logger.warning("Prefect did not take the report (%s)", type(error).__name__)
