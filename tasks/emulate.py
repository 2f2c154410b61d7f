"""Emulate: build the emulator, the smaller model that is handed out."""

from pathlib import Path
from typing import Any

from tasks.artifacts.emulator import EmulatorSummary
from tasks.artifacts.harmonizers import Weights, read_block_scores, read_harmonizers
from tasks.artifacts.plan import read_plan
from tasks.artifacts.stand_ins import read_stand_ins
from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref


@stage(packages=("transformers", "safetensors"))
def emulate(
    work: Work,
    model: ModelSource,
    plan: Ref,
    stand_ins: Ref | None = None,
    harmonizers: Ref | None = None,
    *,
    harmonized: float = 1.0,
) -> EmulatorSummary:
    """Write a Hugging Face folder with the kept blocks, each stored once, and `plan.json`, which says where they run.

    Tensors are copied from the model's shards as bytes, with one buffer in memory whatever the size of the model.
    stand_ins: linear stand-ins for removed blocks, which are folded into weights of frozen blocks; these matrices, one
    for each run, are in memory. harmonizers: trained ones, of which a share `harmonized` of the removed blocks gets its
    own (`harmonized_blocks`).

    Raises:
        InputError: when the family cannot be rearranged on disk, or a stand-in or harmonizer is missing.
    """
    from tasks.models.emulators.emulator import write_emulator
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.tensor_files import weight_bytes

    how, beside = read_plan(work.open(plan)), dict[str, Any]()
    if stand_ins:
        beside["stand_ins"] = read_stand_ins(work.open(stand_ins))
    if harmonizers:
        beside["harmonizers"] = _chosen(how, work.open(harmonizers), harmonized)
    write_emulator(Path(model.path), how, work.out, **beside)
    num_bytes = weight_bytes(work.out)
    num_parameters = count_parameters(work.out)
    facts: EmulatorSummary = {
        "num_kept": len(how.kept),
        "depth": len(how.layout),
        "num_bytes": num_bytes,
        "num_parameters": num_parameters,
    }
    if harmonizers:
        facts["num_harmonizers"] = len(beside["harmonizers"])
    return facts


def _chosen(plan: Plan, folder: Path, share: float) -> dict[int, Weights]:
    """Read the harmonizers of the removed blocks that get one.

    Raises:
        InputError: when there is none for such a block.
    """
    from tasks.core.harmonizers.scores import harmonized_blocks

    there, blocks = read_harmonizers(folder), harmonized_blocks(plan, read_block_scores(folder), share)
    if missing := [block for block in blocks if block not in there]:
        raise InputError(f"no harmonizer was trained for the removed block {missing[0]}: train them for this plan")
    return {block: there[block] for block in blocks}
