"""Compress: make an emulator's frozen blocks cheaper by pruning, fake quantisation or two factors of low rank."""

from tasks.core.compression.settings import Compression
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("torch", "transformers", "safetensors"))
def compress(work: Work, emulator: Ref, *, how: Compression) -> dict:
    """An emulator folder like the one that is given; frozen blocks are changed, tuned ones are not.

    Errors: InputError where the plan freezes nothing, or no weight has the rank.
    """
    from tasks.models.compressed_emulator import summary, write_compressed
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.tensor_files import weight_bytes

    tally = write_compressed(work.open(emulator), how, work.out)
    num_bytes = weight_bytes(work.out)
    num_parameters = count_parameters(work.out)
    return {"num_bytes": num_bytes, "num_parameters": num_parameters, **summary(tally, how)}
