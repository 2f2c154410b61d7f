"""Fill: give an emulator a block in each place of a hidden one, as somebody would who has only the emulator."""

from tasks.artifacts.emulator import EmulatorSummary
from tasks.artifacts.plan import read_plan
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("transformers", "safetensors"))
def fill(work: Work, emulator: Ref) -> EmulatorSummary:
    """Write a folder of full depth in which each hidden block is a copy of the nearest kept one.

    It runs as the emulator with sharing "all" does, but each copy is stored, so that it can be trained by itself. The
    plan beside it tunes the blocks of the emulator and freezes the copies: `distill` trains the latter. Weights are
    those that the emulator has, compressed or distilled as it is.

    Raises:
        InputError: when no block is hidden, or the emulator has harmonizers.
    """
    from tasks.models.emulators.filled_emulator import save_filled
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.tensor_files import weight_bytes

    folder = work.open(emulator)
    save_filled(folder, work.out)
    num_blocks = read_plan(folder, "emulator").num_blocks
    num_bytes, num_parameters = weight_bytes(work.out), count_parameters(work.out)
    return {"num_kept": num_blocks, "depth": num_blocks, "num_bytes": num_bytes, "num_parameters": num_parameters}
