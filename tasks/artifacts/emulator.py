"""The summaries of the stages that write an emulator; `tasks.models.emulators` reads and writes the folder itself."""

from typing import NotRequired, TypedDict, cast

from tasks.artifacts.files import HasSummary

# Beside the plan: how the frozen blocks were compressed, for stages that load or train them.
COMPRESSION_FILE = "compression.json"


class EmulatorSizes(TypedDict):
    """The fields of every emulator's summary: bytes of its weight files, and distinct parameters."""

    num_bytes: int
    num_parameters: int


class EmulatorSummary(EmulatorSizes):
    """Summary of `emulate`. depth: number of positions; num_harmonizers: of removed blocks, where there are any."""

    num_kept: int
    depth: int
    num_harmonizers: NotRequired[int]


class CompressionFacts(TypedDict):
    """Results of a compression: the number of compressed weights, and for some methods zeros and pairs of factors.

    num_channels: channels that the feed-forward parts of all frozen blocks keep.
    """

    method: str
    num_compressed: int
    mean_relative_error: NotRequired[float]
    num_zeros: NotRequired[int]
    num_factored: NotRequired[int]
    num_channels: NotRequired[int]


class CompressedSummary(EmulatorSizes, CompressionFacts):
    """Summary of `compress` and `compress_by_gradient`."""


class DistilledSummary(EmulatorSizes):
    """Summary of `distill`, beside the fields of `tasks.core.tuning.state.TrainResult`.

    num_trained: parameters of the frozen blocks; num_rows: documents; num_windows: parts of them that are trained on.
    """

    num_trained: int
    num_rows: int
    num_windows: int


def emulator_sizes(result: HasSummary) -> EmulatorSizes:
    """Return the sizes from the summary of a stage that writes an emulator."""
    return cast(EmulatorSizes, result.summary)
