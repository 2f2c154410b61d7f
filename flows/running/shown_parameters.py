"""The parameters and input digests of a run that MLflow shows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.settings.group import FOLDERS
from flows.settings.run import Settings

# Prefixes and suffixes of the names of the facts that are shown.
BEGINNINGS, ENDINGS = ("num_", "precision"), ("_digest", "_from")

if TYPE_CHECKING:
    from flows.running.inputs import Inputs


def shown_parameters(settings: Settings, facts: dict[str, Any]) -> dict[str, str]:
    """Return every setting that can change this flow's result, flat; only the names of folders, and no [place]."""
    flat: dict[str, str] = {}
    named = {".".join(place) for place in FOLDERS}
    for group, values in settings.model_dump(mode="json", exclude={"place", "export"}).items():
        if isinstance(values, dict):
            given = {f"{group}.{key}": value for key, value in values.items() if value is not None}
            flat |= {key: _named(value) if key in named else str(value) for key, value in given.items()}
        else:
            flat[group] = ", ".join(values)
    shown = {key: value for key, value in facts.items() if key.startswith(BEGINNINGS) or key.endswith(ENDINGS)}
    return flat | {f"fact.{key}": str(value) for key, value in shown.items()}


def _named(folder: Any) -> str:
    """Return the last part of a folder's path, or for a table of folders the names in it."""
    return ", ".join(folder) if isinstance(folder, dict) else Path(folder).name


def digests_of(inputs: "Inputs") -> dict[str, str]:
    """Return the digests of the model, the task and, where there is one, the generic text."""
    digests = {f"model {inputs.model.family}": inputs.model.weights, f"task {inputs.task.name}": inputs.task.digest}
    return digests | ({"generic text": inputs.text.digest} if inputs.text else {})
