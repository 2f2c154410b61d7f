"""Differences between tuned blocks and those of the full model: the artifact of `examine`."""

from typing import TypedDict, cast

from tasks.artifacts.files import HasSummary, JsonFile


class Examined(TypedDict):
    """moved, direction: by block, as `tasks.core.tuning.changes.BlockChange`; alarms: sentences."""

    moved: dict[str, float]
    direction: dict[str, float]
    alarms: list[str]


EXAMINED_FILE = JsonFile("changes.json", "changes of tuned blocks", Examined, indent=1)


def examined(result: HasSummary) -> Examined:
    """Return the summary of a result of `examine`, which is what its file has."""
    return cast(Examined, result.summary)
