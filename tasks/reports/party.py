"""The report of one party of an exchange as text: CSV, Markdown, and one self-contained HTML page."""

from collections.abc import Collection

from tasks.artifacts.party_report import PartyReport
from tasks.core.evaluation.comparison import Mean
from tasks.reports.run.tables import format_score
from tasks.reports.table import Table
from tasks.reports.templates import render

SETTINGS = {
    "full_zero_shot": "full model, before",
    "emulator_zero_shot": "emulator, before tuning",
    "emulator_tuned": "emulator, tuned",
    "plug_in": "full model with the tuned blocks",
}


def long_csv(report: PartyReport) -> str:
    """Return CSV with a row for each score."""
    return Table.of_records(report["scores"]).csv()


def markdown(report: PartyReport) -> str:
    """Return title, scores and facts as Markdown."""
    facts = Table(["", "value"], (report["facts"] | report["own"]).items(), num_names=2).markdown()
    return "\n\n".join([report["title"], scores_table(report).markdown(), facts]) + "\n"


def page(report: PartyReport) -> str:
    """Return the report as a page without scripts or external files."""
    facts = report["facts"] | report["own"]
    return render("party.html.j2", title=report["title"], scores=scores_table(report), facts=facts)


def scores_table(report: PartyReport) -> Table:
    """Return the scores: setting, metric, score with its standard error, rows."""
    return Table(
        ["", "metric", "score", "rows"],
        [
            [
                setting_words(each["setting"]),
                each["metric"],
                format_score(Mean(each["value"], each["stderr"], 1, "rows")),
                each["num_rows"],
            ]
            for each in report["scores"]
        ],
        num_names=2,
    )


def setting_words(setting: str) -> str:
    """Return a setting, or setting/task, in words."""
    name, _, task = setting.partition("/")
    return f"{SETTINGS[name]}, {task}" if task else SETTINGS[name]


def card_scores(report: PartyReport, only: Collection[str] | None = None) -> list[tuple[str, str, str]]:
    """Return the scores for a model card: setting, metric and value as text. only: settings that it may have."""
    rows = [row for row in report["scores"] if only is None or row["setting"] in only]
    return [(setting, metric, score) for setting, metric, score, _ in scores_table({**report, "scores": rows}).rows]
