"""The models that descend from one another by tuned blocks that were plugged in, as this home remembers them.

A plugged model has other weights, and so another digest, than the one from which its emulators were made; but all
blocks that were not tuned are the same. What was disclosed of one was disclosed of all.
"""

import json
from pathlib import Path

from tasks.core.errors import EnvironmentFault
from tasks.exchange.plugging import PLUG_FILE


def relatives(plugged: Path, weights: str) -> set[str]:
    """Return the digests of all models that have an ancestor in common with a model, itself included.

    plugged: folder with what is remembered of each plugged model; weights: digest of the model's weights.

    Raises:
        EnvironmentFault: when a file of that folder cannot be read.
    """
    found, pairs = {weights}, _descents(plugged)
    while more := {each for pair in pairs if found & pair for each in pair} - found:
        found |= more
    return found


def _descents(plugged: Path) -> list[set[str]]:
    """Return the digests before and after each plug-in."""
    found = []
    # Their names are ids of bundles; folders that are being written have others.
    for folder in sorted(plugged.glob("[0-9a-f]" * 32)):
        file = folder / PLUG_FILE
        try:
            described = json.loads(file.read_text())
            # Models that were plugged in by an earlier version have no digest here.
            found.append({str(described["weights_before"]), str(described.get("weights_after", ""))} - {""})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EnvironmentFault(
                f"{file} cannot be read ({type(error).__name__}): without it, blocks that were disclosed before may not"
                " be counted. Restore the folder from a copy of this home"
            ) from None
    return found
