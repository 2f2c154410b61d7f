"""Predictions block by block, `trajectory.json`: the artifact of `trajectory`. It contains words of rows."""

from pathlib import Path
from typing import TypedDict

from tasks.artifacts.files import JsonFile


class Variant(TypedDict):
    """The full model or a plan at the last T positions of a row, behind each of its n blocks, [n][T].

    sources: indices of the n blocks; top: likeliest token as text; entropy, and kl from the full model's output: nats.
    """

    sources: list[int]
    top: list[list[str]]
    probability: list[list[float]]
    entropy: list[list[float]]
    kl: list[list[float]]


class Row(TypedDict):
    """row: its number; tokens: its last T tokens as text; variants: "full", then the plans."""

    row: int
    tokens: list[str]
    variants: dict[str, Variant]


class Trajectories(TypedDict):
    """lens: "logit" or "tuned"; split: of the rows."""

    lens: str
    split: str
    rows: list[Row]


TRAJECTORY_FILE = JsonFile("trajectory.json", "trajectories", Trajectories)


class TrajectorySummary(TypedDict):
    """Summary of `trajectory`. num_blocks: of each variant."""

    lens: str
    num_rows: int
    num_blocks: dict[str, int]


def write_trajectories(folder: Path, found: Trajectories) -> None:
    """Write the predictions."""
    TRAJECTORY_FILE.write(folder, found)


def read_trajectories(folder: Path) -> Trajectories:
    """Read the predictions.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return TRAJECTORY_FILE.read(folder)
