"""Party report: the scores and facts that one party of an exchange has, as a table and a page."""

from typing import Any

from tasks.artifacts.party_report import PARTY_FILE, PARTY_PAGE, PartyReport, PartyReportSummary
from tasks.artifacts.scores import scores_summary
from tasks.artifacts.tables import LONG_TABLE, MARKDOWN_TABLE
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("jinja2", "pandas"))
def party_report(work: Work, *, title: str, scores: dict[str, Ref], facts: dict[str, Any]) -> PartyReportSummary:
    """Write `table.md`, `table.csv`, `party.html` and `party.json`.

    scores: by setting, such as `emulator_tuned`, or of a held-out task by setting/task; facts: by name, as they are
    shown. A party has only what it computed itself: the data owner no score of the full model, the model owner no row
    of the data.
    """
    from tasks.reports.party import long_csv, markdown, page

    found = [{"setting": name, **scores_summary(ref)} for name, ref in scores.items()]
    kept = ("setting", "metric", "value", "stderr", "num_rows", "higher_is_better", "chance")
    content: PartyReport = {
        "title": title,
        "scores": [{name: each[name] for name in kept} for each in found],
        "facts": {**_kept(found), **facts},
    }
    PARTY_FILE.write(work.out, content)
    (work.out / LONG_TABLE).write_text(long_csv(content))
    (work.out / MARKDOWN_TABLE).write_text(markdown(content))
    (work.out / PARTY_PAGE).write_text(page(content))
    return {each["setting"]: each["value"] for each in content["scores"]}  # type: ignore[return-value]


def _kept(scores: list[dict[str, Any]]) -> dict[str, str]:
    """Return, for each task, the emulator's score as a share of the full model's, where both are there."""
    from tasks.core.evaluation.recovery import capability

    by_setting = {each["setting"]: each for each in scores}
    found = {}
    for setting, full in by_setting.items():
        name, _, task = setting.partition("/")
        own = by_setting.get(setting.replace("full", "emulator", 1))
        if name != "full_zero_shot" or own is None:
            continue
        share = capability(own["value"], full["value"], full["higher_is_better"])
        if share is not None:
            found[f"emulator's share of the full model's score{' on ' if task else ''}{task} (CPL)"] = f"{share:.1%}"
    return found
