"""Results of a recovery audit, `audit.json`: the artifact of `audit_report`."""

from typing import Any, TypedDict

from tasks.artifacts.files import JsonFile

AUDIT_PICTURE = "audit.png"


class AuditLoss(TypedDict):
    """The loss of a model whose hidden blocks were filled in.

    hidden: a strategy, whose emulator hides blocks, or a position; blocks: those that are hidden, by their index;
    share: of the full model's parameters; fill: the way to fill them in, "none" for the emulator as it is; num_filled:
    hidden blocks with something in their place; loss: nats a token of public text, with its standard error; recovery:
    see `tasks.core.evaluation.recovery.recovery_share`.
    """

    hidden: str
    blocks: list[int]
    share: float
    fill: str
    num_filled: int
    loss: float
    stderr: float | None
    recovery: float


class AuditScore(TypedDict):
    """The zero-shot score of such a model on a task, or of the full one (hidden and fill are empty).

    capability: as a share of the full model's score, None where that is zero; chance: the score of guessing.
    """

    task: str
    hidden: str
    fill: str
    metric: str
    value: float
    stderr: float | None
    num_rows: int
    chance: float | None
    capability: float | None


class Audit(TypedDict):
    """facts: about model, text and trainings; full_loss and guessing: nats a token; losses, scores: the rows."""

    facts: dict[str, Any]
    full_loss: float
    guessing: float
    losses: list[AuditLoss]
    scores: list[AuditScore]


AUDIT_FILE = JsonFile("audit.json", "recovery audit", Audit, indent=1, end="\n")


class AuditSummary(TypedDict):
    """Summary of `audit_report`: the largest share that came back, of what and by which fill."""

    recovery: float
    hidden: str
    fill: str
