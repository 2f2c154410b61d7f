"""Emulate: build the emulator, the smaller model that is handed out."""

from tasks.artifacts.emulator import EmulatorSummary
from tasks.artifacts.plan import read_plan
from tasks.artifacts.stand_ins import read_stand_ins
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref


@stage(packages=("transformers", "safetensors"))
def emulate(work: Work, model: ModelSource, plan: Ref, stand_ins: Ref | None = None) -> EmulatorSummary:
    """Write a Hugging Face folder with the kept blocks, each stored once, and `plan.json`, which says where they run.

    Tensors are copied from the model's shards as bytes, with one buffer in memory whatever the size of the model.
    stand_ins: linear stand-ins for removed blocks, which are folded into weights of frozen blocks; these matrices, one
    for each run, are in memory.
    """
    from pathlib import Path

    from tasks.models.emulators.emulator import write_emulator
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.tensor_files import weight_bytes

    how = read_plan(work.open(plan))
    write_emulator(Path(model.path), how, work.out, read_stand_ins(work.open(stand_ins)) if stand_ins else None)
    num_bytes = weight_bytes(work.out)
    num_parameters = count_parameters(work.out)
    return {
        "num_kept": len(how.kept),
        "depth": len(how.layout),
        "num_bytes": num_bytes,
        "num_parameters": num_parameters,
    }
