"""The report of one party of an exchange: the artifact of `party_report`."""

from typing import Any, TypedDict

from tasks.artifacts.files import JsonFile

PARTY_PAGE = "party.html"


class PartyReport(TypedDict):
    """title: what was done; scores: rows of setting, metric, value, standard error and rows; facts: by name; own: facts
    about held-out tasks and plugged models, which no other party is told.

    The setting of a held-out task is followed by / and the task.
    """

    title: str
    scores: list[dict[str, Any]]
    facts: dict[str, Any]
    own: dict[str, Any]


PARTY_FILE = JsonFile("party.json", "report of a party", PartyReport, indent=1)


class PartyReportSummary(TypedDict, total=False):
    """Summary of `party_report`: value by setting, or setting/task."""

    full_zero_shot: float
    emulator_zero_shot: float
    emulator_tuned: float
    plug_in: float
