"""Compress: make an emulator's frozen blocks cheaper by pruning, fake quantisation or two factors of low rank."""

from tasks.core.compression import Compression
from tasks.store.artifacts import Ref
from tasks.store.stage import MODEL_CODE, stage
from tasks.store.work import Work


@stage(packages=("torch", "transformers", "safetensors"), code=(*MODEL_CODE, "tasks.store.compressed"))
def compress(work: Work, emulator: Ref, *, how: Compression) -> dict:
    """An emulator folder like the one that is given; frozen blocks are changed, tuned ones are not.

    Errors: InputError where the plan freezes nothing, or no weight has the rank.
    """
    from tasks.store.compressed import summary, write_compressed
    from tasks.store.tensor_files import stored_tensors

    tally = write_compressed(work.open(emulator), how, work.out)
    num_bytes = sum(path.stat().st_size for path in work.out.glob("*.safetensors"))
    num_parameters = sum(tensor.num_entries for tensor in stored_tensors(work.out).values())
    return {"num_bytes": num_bytes, "num_parameters": num_parameters, **summary(tally, how)}
