"""The pooled states of a support set, `states.safetensors`: the artifact of `capture` and of `single`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired, TypedDict, cast

from tasks.artifacts.files import TensorFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class States(TypedDict):
    """States of N blocks on n rows, of width d.

    states: with the chosen pooling, state 0 being the input of block 0; last: of the last real token;
    block_influence: mean over tokens of 1 - cosine of a block's input and output.
    """

    states: Annotated["Tensor", "float32 [N+1, n, d]"]
    last: Annotated["Tensor", "float32 [N+1, n, d]"]
    block_influence: Annotated["Tensor", "float32 [N]"]


STATES_FILE = TensorFile("states.safetensors", "captured states", States)


class StatesSummary(TypedDict):
    """Summary of `capture` and `single`; num_tokens and num_threads: of `capture` only."""

    num_blocks: int
    num_rows: int
    width: int
    num_truncated: int
    num_tokens: NotRequired[int]
    num_threads: NotRequired[int]


def write_states(folder: Path, tensors: "Mapping[str, Tensor]") -> None:
    """Write the tensors of `States`."""
    STATES_FILE.write(folder, tensors)


def read_states(folder: Path) -> States:
    """Read the states.

    Raises:
        InputError: when the file is missing or not valid.
    """
    return cast(States, STATES_FILE.read(folder, "torch"))
