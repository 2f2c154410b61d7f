"""Emulators on disk: make them from a model folder by copying byte ranges, load, expand and export them.

An emulator folder is a plain Hugging Face folder of the kept blocks, each stored once, with the plan beside it. It
loads with `AutoModelForCausalLM.from_pretrained` as the short model (kept blocks in order, nothing repeated);
`load_emulator` lays it out as the plan says, and runs its harmonizers (`stored_harmonizers`). With weights in two
factors or with fewer channels (see `resized_weights` beside this module) the former fails and names their shapes, while
the latter runs them as they are.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts.plan import PLAN_FILE, read_plan
from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan
from tasks.models.block_names import BlockNames
from tasks.models.emulators.folded_stand_ins import folded_in
from tasks.models.emulators.resized_weights import load_as_stored, made_whole
from tasks.models.emulators.stored_harmonizers import add_stored_harmonizers, harmonizer_tensors, refuse_harmonizers
from tasks.models.folder import copy_companions, load_config
from tasks.models.folder_tensors import NUM_PREDICTING_KEYS, tensors_of
from tasks.models.pickled import to_safetensors
from tasks.models.tensor_files import TensorSource, read_tensors, write_tensors
from tasks.store.files import flush, write_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from tasks.artifacts.harmonizers import Weights
    from tasks.artifacts.stand_ins import Folding

__all__ = ["load_emulator", "read_tensors", "save_expanded", "to_safetensors", "write_emulator"]


def write_emulator(
    model_folder: Path,
    plan: Plan,
    out: Path,
    stand_ins: "Mapping[int, Folding] | None" = None,
    harmonizers: "Mapping[int, Weights] | None" = None,
) -> None:
    """Copy the kept blocks and all tensors outside the blocks from `model_folder` into the empty folder `out`.

    Memory is one small buffer, whatever the size of the model. stand_ins: maps that are folded into frozen blocks, in
    memory; harmonizers: of removed blocks, likewise.

    Raises:
        InputError: when the folder does not hold the `plan.num_blocks` blocks, their family cannot be rearranged on
            disk, or a stand-in has no place.
    """
    config = load_config(model_folder)
    _write_rearranged(model_folder, config, plan.num_blocks, plan.kept, out, stand_ins or {}, harmonizers or {})
    write_text(out / PLAN_FILE, plan.to_json())


def save_expanded(folder: Path, out: Path) -> None:
    """Export an emulator folder as a plain model folder of full depth.

    Repeated blocks are stored repeatedly, and a weight in two factors as their product.

    Raises:
        InputError: when the emulator has harmonizers.
    """
    plan = read_plan(folder, "emulator")
    refuse_harmonizers(tensors_of(folder), folder)
    sources = [source for source, _ in _stored_layout(plan)]
    _write_rearranged(folder, load_config(folder), len(plan.kept), sources, out, {}, {})


def load_emulator(folder: Path, *, dtype: "torch.dtype | str" = "auto", device: str = "cpu") -> "PreTrainedModel":
    """Load the emulator laid out as its plan says: shared blocks tied, tuned blocks with own, trainable tensors."""
    from tasks.core.blocks.surgery import rearranged

    plan = read_plan(folder, "emulator")
    network = rearranged(load_as_stored(folder, len(plan.kept), dtype=dtype, device=device), _stored_layout(plan))
    add_stored_harmonizers(network, plan, folder)
    return network


def _stored_layout(plan: Plan) -> list[tuple[int, bool]]:
    """Return the plan's layout with each source as its index among the kept blocks, which is its index on disk."""
    return [(plan.kept.index(source), is_tuned) for source, is_tuned in plan.layout]


def _write_rearranged(
    folder: Path,
    config: "PreTrainedConfig",
    num_blocks: int,
    sources: Sequence[int],
    out: Path,
    stand_ins: "Mapping[int, Folding]",
    harmonizers: "Mapping[int, Weights]",
) -> None:
    from tasks.core.blocks.locate_blocks import block_config, require_rebuildable, text_config

    if (found := text_config(config).num_hidden_layers) != num_blocks:
        raise InputError(f"the plan is for {num_blocks} blocks, {folder} has {found}: make a plan for this model")
    stored = tensors_of(folder)
    whole = {
        **made_whole(stored, config, num_blocks, folder),
        **folded_in(stored, stand_ins, config, num_blocks, folder),
    }
    tensors = _rearranged(whole, num_blocks, sources, folder)
    tensors += harmonizer_tensors(harmonizers, stored, num_blocks, folder)
    require_rebuildable(config, sources)
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, out)
    copy_companions(folder, out)
    rearranged = block_config(config, sources)
    # The blocks for multi-token prediction that the config counts are not written.
    for name in NUM_PREDICTING_KEYS:
        if getattr(text_config(rearranged), name, None):
            setattr(text_config(rearranged), name, 0)
    write_text(out / "config.json", rearranged.to_json_string())
    flush(out)


def _rearranged(
    tensors: Mapping[str, TensorSource], num_blocks: int, sources: Sequence[int], folder: Path
) -> list[tuple[str, TensorSource]]:
    """Return (new name, tensor): all outside the blocks unchanged, then block `sources[i]` under index i."""
    names = BlockNames(tensors, num_blocks, folder)
    blocks: dict[int, list[tuple[str, TensorSource]]] = defaultdict(list)
    result = []
    for name, tensor in tensors.items():
        if place := names.place(name):
            blocks[place.block].append((place.rest, tensor))
        else:
            result.append((name, tensor))
    for position, source in enumerate(sources):
        result += [(names.name(position, rest), tensor) for rest, tensor in blocks[source]]
    return result
