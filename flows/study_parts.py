"""The parts of a study: which analyses each of them asks for."""

from collections.abc import Callable, Sequence
from typing import Any

from flows.study_cells import StudyCell
from tasks.capture import capture
from tasks.similarity import similarity


def look_at_similarity(cell: StudyCell) -> None:
    """How alike the blocks' states are, and what that depends on."""
    states = captured(cell)
    cell(similarity, states=states, **cell.run.arguments.similarity)


def between(cells: Sequence[StudyCell]) -> None:
    """What is said of several cells together."""


def captured(cell: StudyCell) -> Any:
    """The support set's states, as plans are made from."""
    inputs = {"model": cell.run.model, "task": cell.run.task, **cell.run.arguments.capture}
    return cell.once("capture", lambda: cell(capture, **inputs))


ANALYSES: dict[str, Callable[[StudyCell], None]] = {"similarity": look_at_similarity}
