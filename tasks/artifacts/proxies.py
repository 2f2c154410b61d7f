"""The proxies of an emulator, `proxies.json`: the artifact of `proxies`.

The file has the fields of `tasks.core.evaluation.proxies.Proxies`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from tasks.artifacts.files import HasSummary, read_object

if TYPE_CHECKING:
    from tasks.core.evaluation.proxies import Proxies

PROXIES_FILE = "proxies.json"


class ProxiesSummary(TypedDict):
    """Summary of `proxies`. kl: nats per token."""

    gradient_cosine: float
    kl: float
    state_error: float
    num_rows: int
    num_answer_tokens: int


def write_proxies(folder: Path, found: "Proxies") -> None:
    """Write the proxies of one emulator."""
    (folder / PROXIES_FILE).write_text(json.dumps(asdict(found), indent=2) + "\n")


def read_proxies(folder: Path) -> "Proxies":
    """Read the proxies of one emulator.

    Raises:
        InputError: when the file is missing or not valid.
    """
    from dataclasses import fields

    from tasks.core.evaluation.proxies import Proxies

    names = [field.name for field in fields(Proxies)]
    found = read_object(folder, PROXIES_FILE, "proxies", names)
    for name in ("block_gradient_cosine", "block_state_error"):
        found[name] = {int(block): value for block, value in found[name].items()}
    return Proxies(**{name: found[name] for name in names})


def proxies_summary(result: HasSummary) -> ProxiesSummary:
    """Return the summary of a result of `proxies`."""
    return cast(ProxiesSummary, result.summary)
