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
    from tasks.reports.party_facts import capability_facts, gap_facts, worse_facts

    found = [{"setting": name, **scores_summary(ref)} for name, ref in scores.items()]
    kept = ("setting", "metric", "value", "stderr", "num_rows", "higher_is_better", "chance")
    rows = [{name: each[name] for name in kept} for each in found]
    shares, own = capability_facts(rows)
    content: PartyReport = {
        "title": title,
        "scores": rows,
        "facts": {**shares, **facts},
        "own": {**own, **gap_facts(rows), **worse_facts(rows)},
    }
    PARTY_FILE.write(work.out, content)
    (work.out / LONG_TABLE).write_text(long_csv(content))
    (work.out / MARKDOWN_TABLE).write_text(markdown(content))
    (work.out / PARTY_PAGE).write_text(page(content))
    return {each["setting"]: each["value"] for each in content["scores"]}  # type: ignore[return-value]
