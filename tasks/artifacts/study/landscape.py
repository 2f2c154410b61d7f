"""Loss and metric between tunings, `landscape.safetensors` and `landscape.json`: the artifact of `landscape`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict, cast

from tasks.artifacts.files import HasSummary, JsonFile, TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor


class Landscape(TypedDict):
    """Losses (nats per answer token) and metrics on L lines of n places from 0 to 1, and on a plane of m x m places.

    In the plane's matrices, y is in rows. plane_points: for each of P points x, y, and its distance from the plane over
    that from the origin (points outside are projected). Without a plane its tensors are absent.
    """

    line_places: Annotated["np.ndarray", "float64 [n]"]
    line_loss: Annotated["np.ndarray", "float64 [L, n]"]
    line_metric: Annotated["np.ndarray", "float64 [L, n]"]
    plane_x: NotRequired[Annotated["np.ndarray", "float64 [m]"]]
    plane_y: NotRequired[Annotated["np.ndarray", "float64 [m]"]]
    plane_loss: NotRequired[Annotated["np.ndarray", "float64 [m, m]"]]
    plane_metric: NotRequired[Annotated["np.ndarray", "float64 [m, m]"]]
    plane_points: NotRequired[Annotated["np.ndarray", "float64 [P, 3]"]]


LANDSCAPE_FILE = TensorFile("landscape.safetensors", "landscape", Landscape)


class LandscapeFacts(TypedDict):
    """points: names, in order; lines: of each its ends and barrier (`tasks.core.study.landscape.Barrier`); metric: of
    the task; plane: names, lengths and angle of the axes.
    """

    points: list[str]
    lines: list[dict[str, Any]]
    split: str
    metric: str
    higher_is_better: bool
    num_tokens: int
    plane: NotRequired[dict[str, Any]]


LANDSCAPE_FACTS = JsonFile("landscape.json", "landscape", LandscapeFacts, indent=2, end="\n")


class LandscapeSummary(TypedDict):
    """Summary of `landscape`, which also has each line's barrier, by the names of its ends."""

    num_rows: int
    num_points: int
    metric: str
    split: str
    num_changed_blocks: int


def write_landscape(folder: Path, tensors: "Mapping[str, Tensor]", facts: LandscapeFacts) -> None:
    """Write the tensors of `Landscape`, and the facts."""
    LANDSCAPE_FILE.write(folder, tensors)
    LANDSCAPE_FACTS.write(folder, facts)


def read_landscape(folder: Path) -> "tuple[Landscape, LandscapeFacts]":
    """Read tensors and facts.

    Raises:
        InputError: when a file is missing or not valid.
    """
    facts = LANDSCAPE_FACTS.read(folder)
    return cast(Landscape, LANDSCAPE_FILE.read(folder)), facts


def landscape_summary(result: HasSummary) -> LandscapeSummary:
    """Return the summary of a result of `landscape`."""
    return cast(LandscapeSummary, result.summary)
