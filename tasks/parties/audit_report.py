"""Audit report: how much of the full model comes back when hidden blocks are filled in, as tables and a picture."""

import math
from typing import Any

from tasks.artifacts.audit import AUDIT_FILE, AUDIT_PICTURE, Audit, AuditLoss, AuditScore, AuditSummary
from tasks.artifacts.scores import scores_summary
from tasks.artifacts.tables import LONG_TABLE, MARKDOWN_TABLE
from tasks.artifacts.validation_loss import loss_summary
from tasks.core.evaluation.recovery import capability, recovery_share
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("matplotlib", "pandas"))
def audit_report(
    work: Work,
    *,
    facts: dict[str, Any],
    full: Ref,
    full_scores: dict[str, Ref],
    losses: list[dict[str, Any]],
    scores: list[dict[str, Any]],
) -> AuditSummary:
    """Write tables (`table.csv`, `table.md`), `audit.json` and the picture `audit.png`.

    facts: about model, text and trainings, with the number of tokens in the `vocabulary`; full: loss of the full model;
    full_scores: its scores by task. losses: rows of `tasks.artifacts.audit.AuditLoss` with a reference `loss` to a
    validation; scores: rows with `hidden`, `fill`, `task` and a reference `score` to an evaluation.

    Raises:
        InputError: when the full model is not better than guessing on the text.
    """
    from tasks.reports.audit import figure
    from tasks.reports.audit.table import long_csv, markdown

    whole = loss_summary(full)
    found: Audit = {
        "facts": {**facts, "num_tokens": whole["num_tokens"], "num_documents": whole["num_rows"]},
        "full_loss": whole["loss"],
        "guessing": math.log(facts["vocabulary"]),
        "losses": [_loss(row, whole["loss"], facts["vocabulary"]) for row in losses],
        "scores": [row for task, ref in full_scores.items() for row in _scores(task, ref, scores)],
    }
    AUDIT_FILE.write(work.out, found)
    (work.out / LONG_TABLE).write_text(long_csv(found))
    (work.out / MARKDOWN_TABLE).write_text(markdown(found))
    figure.draw(found, work.out / AUDIT_PICTURE)
    most = max(found["losses"], key=lambda row: row["recovery"])
    return {"recovery": most["recovery"], "hidden": most["hidden"], "fill": most["fill"]}


def _loss(row: dict[str, Any], full_loss: float, vocabulary: int) -> AuditLoss:
    measured = loss_summary(row["loss"])
    return {
        "hidden": row["hidden"],
        "blocks": row["blocks"],
        "share": row["share"],
        "fill": row["fill"],
        "num_filled": row["num_filled"],
        "loss": measured["loss"],
        "stderr": measured["stderr"],
        "recovery": recovery_share(measured["loss"], full_loss, vocabulary),
    }


def _scores(task: str, full: Ref, scores: list[dict[str, Any]]) -> list[AuditScore]:
    """Return the rows of one task, the full model's first."""
    own = [each for each in scores if each["task"] == task]
    others = [_score(task, each["hidden"], each["fill"], each["score"], full) for each in own]
    return [_score(task, "", "", full, full), *others]


def _score(task: str, hidden: str, fill: str, ref: Ref, full: Ref) -> AuditScore:
    found, whole = scores_summary(ref), scores_summary(full)
    return {
        "task": task,
        "hidden": hidden,
        "fill": fill,
        "metric": found["metric"],
        "value": found["value"],
        "stderr": found["stderr"],
        "num_rows": found["num_rows"],
        "chance": found["chance"],
        "capability": capability(found["value"], whole["value"], found["higher_is_better"]),
    }
