"""The artifact of `harmonizers`: the trained networks, and the scores of the blocks that they may replace.

`harmonizers.safetensors` has the networks, `block_scores.safetensors` the scores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypedDict

from tasks.artifacts.files import TensorFile

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Networks(TypedDict):
    """Weights of the C harmonizers, and the blocks that they replace, ascending."""

    blocks: Annotated["Tensor", "int64 [C]"]
    down: Annotated["Tensor", "float32 [C, r, d]"]
    up: Annotated["Tensor", "float32 [C, d, r]"]


class BlockScores(TypedDict):
    """Score of every block; next to 0 for blocks that were never replaced."""

    scores: Annotated["np.ndarray", "float32 [N]"]


NETWORKS_FILE = TensorFile("harmonizers.safetensors", "harmonizers", Networks)
SCORES_FILE = TensorFile("block_scores.safetensors", "scores of blocks", BlockScores)


class HarmonizersSummary(TypedDict):
    """Summary of `harmonizers`, beside the fields of `tasks.core.tuning.state.TrainResult`.

    scores: of every block; num_rows: documents; num_windows: parts of them that are trained on.
    """

    num_harmonizers: int
    scores: list[float]
    num_rows: int
    num_windows: int


class Weights(NamedTuple):
    """Weights of one harmonizer: down [r, d], up [d, r]."""

    down: "Tensor"
    up: "Tensor"


def write_harmonizers(folder: Path, harmonizers: Mapping[int, Weights], scores: "Tensor") -> None:
    """Write both files. harmonizers: by block; scores: [N]."""
    import torch

    blocks = sorted(harmonizers)
    down, up = (torch.stack([harmonizers[block][part].float().cpu() for block in blocks]) for part in (0, 1))
    NETWORKS_FILE.write(folder, {"blocks": torch.tensor(blocks), "down": down, "up": up})
    SCORES_FILE.write(folder, {"scores": scores.float()})


def read_harmonizers(folder: Path) -> dict[int, Weights]:
    """Read the harmonizers, by the block that each replaces.

    Raises:
        InputError: when the file is missing or not valid.
    """
    found = NETWORKS_FILE.read(folder, "torch")
    parts = zip(found["blocks"].tolist(), found["down"], found["up"], strict=True)
    return {block: Weights(down, up) for block, down, up in parts}


def read_block_scores(folder: Path) -> list[float]:
    """Read the score of every block.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return SCORES_FILE.read(folder)["scores"].tolist()
