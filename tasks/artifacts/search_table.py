"""The plans of a search, `search.json`, with tables, a picture and the best plan's settings: artifact of `frontier`."""

from pathlib import Path
from typing import Any, TypedDict

from tasks.artifacts.files import JsonFile

BEST_FILE = "best.toml"
FRONTIER_PICTURE = "frontier.png"


class SearchTable(TypedDict):
    """The numbers of a search.

    facts: about model, task and settings; full_loss: of the full model without tuning, nats per answer token; rows: one
    for each plan, the best first; proxies: by name, how well each predicted the gains; best: name of the best plan.
    """

    facts: dict[str, Any]
    full_loss: float
    rows: list[dict[str, Any]]
    proxies: dict[str, dict[str, Any] | None]
    best: str


SEARCH_FILE = JsonFile("search.json", "table of a search", SearchTable, indent=1)


class SearchSummary(TypedDict):
    """Summary of `frontier`: numbers of the best plan. Losses and their differences in nats per answer token."""

    best: str
    num_measured: int
    plug_in_loss: float | None
    gain: float | None
    privacy_gap: float | None
    disclosed: float
    num_bytes: int | None


def write_search_table(folder: Path, found: SearchTable) -> None:
    """Write the numbers of a search."""
    SEARCH_FILE.write(folder, found)


def read_search_table(folder: Path) -> SearchTable:
    """Read the numbers of a search.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return SEARCH_FILE.read(folder)
