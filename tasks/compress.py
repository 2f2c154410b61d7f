"""Compress: make an emulator's frozen blocks cheaper by pruning, fake quantisation or low-rank factors."""

from tasks.artifacts.emulator import CompressedSummary
from tasks.core.compression.settings import Compression
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("torch", "transformers", "safetensors"))
def compress(work: Work, emulator: Ref, *, how: Compression) -> CompressedSummary:
    """Write an emulator folder like the given one with compressed frozen blocks; tuned blocks stay as they are.

    Raises:
        InputError: when the plan has no frozen block, or no weight can have the rank.
    """
    from tasks.models.emulators.compressed_emulator import summary, write_compressed
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.tensor_files import weight_bytes

    tally = write_compressed(work.open(emulator), how, work.out)
    num_bytes = weight_bytes(work.out)
    num_parameters = count_parameters(work.out)
    return {"num_bytes": num_bytes, "num_parameters": num_parameters, **summary(tally, how)}
