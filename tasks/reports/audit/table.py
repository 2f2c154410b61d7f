"""The tables of a recovery audit as text: CSV with every loss, Markdown with losses and scores."""

from tasks.artifacts.audit import Audit, AuditLoss, AuditScore
from tasks.core.evaluation.comparison import Mean
from tasks.reports.run.tables import format_score
from tasks.reports.table import Table

FILLS = {
    "none": "nothing: the emulator as it is",
    "nearest": "copies of the nearest known block",
    "linear": "linear maps, fitted to the model's states",
    "trained": "copies trained on public text alone",
    "distilled": "copies trained on public text with the model's states",
}


def long_csv(found: Audit) -> str:
    """Return CSV with a row for each loss."""
    rows = [{**row, "blocks": " ".join(map(str, row["blocks"]))} for row in found["losses"]]
    return Table.of_records(rows).csv()


def markdown(found: Audit) -> str:
    """Return how much came back of what was hidden, the scores by task, and what the columns mean."""
    facts = found["facts"]
    title = (
        f"{facts['model']}: what comes back of hidden blocks. Loss on public text in nats a token:"
        f" {found['full_loss']:.4f} for the full model, {found['guessing']:.4f} for guessing"
    )
    parts = [title, losses(found).markdown(), _note(found)]
    if found["scores"]:
        parts.append(scores(found).markdown())
    return "\n\n".join(parts) + "\n"


def losses(found: Audit) -> Table:
    """Return a row for each way to fill in what is hidden."""
    header = ["hidden", "blocks", "of the model", "in their place", "filled", "loss", "recovery"]
    return Table(header, [_loss(row) for row in found["losses"]], num_names=4)


def _loss(row: AuditLoss) -> list[str]:
    return [
        row["hidden"],
        _runs(row["blocks"]),
        f"{row['share']:.1%}",
        FILLS[row["fill"]],
        f"{row['num_filled']} of {len(row['blocks'])}",
        format_score(Mean(row["loss"], row["stderr"], 1, "rows")),
        f"{row['recovery']:.1%}",
    ]


def _runs(blocks: list[int]) -> str:
    """Return ascending block indices with runs as first-last."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _note(found: Audit) -> str:
    facts = found["facts"]
    return (
        "Recovery: (guessing − loss) / (guessing − full model's loss), which is 0% for guessing among all tokens"
        " alike and 100% for the full model; compare it with the emulator as it is."
        f" {facts['num_documents']} documents, {facts['num_tokens']} tokens. Copies are trained for"
        f" {facts['num_steps']} steps of {facts['batch_size']} windows of {facts['block']} tokens,"
        f" {facts['trained_tokens']:,} tokens in all; known blocks stay as they are. A linear map needs a known block"
        " in front. Maps and the last fill use states of the full model, which a recipient of an emulator does not"
        " have. Another attack, or a longer one, may get back more."
    )


def scores(found: Audit) -> Table:
    """Return a row for each task and model: its zero-shot score, and that as a share of the full model's."""
    header = ["task", "hidden", "in their place", "metric", "score", "guessing", "of the full model's (CPL)"]
    return Table(header, [_score(row) for row in found["scores"]], num_names=4)


def _score(row: AuditScore) -> list[str]:
    return [
        row["task"],
        row["hidden"] or "nothing",
        FILLS[row["fill"]] if row["fill"] else "the full model",
        row["metric"],
        format_score(Mean(row["value"], row["stderr"], 1, "rows")),
        "" if row["chance"] is None else f"{row['chance']:.4g}",
        "" if row["capability"] is None else f"{row['capability']:.1%}",
    ]
