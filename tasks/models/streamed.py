"""Open a model that does not fit into memory: its blocks stay in their files, everything else is loaded."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.models.folder import load_config, read_model
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tasks.core.blocks.streaming import StoredTensors

CPU, DISK = "cpu", "disk"


@contextmanager
def open_streamed(
    source: ModelSource, precision: str, device: str, scratch: Path
) -> Iterator[tuple["PreTrainedModel", "StoredTensors"]]:
    """Yield the model with its blocks on the meta device, and their tensors, each read when it is asked for.

    precision: number format; device: of everything outside the blocks. scratch: an existing folder for tensors whose
    form in memory is another than in the files (experts that are fused), until the end of the context; others are read
    from the model's own files.

    Raises:
        InputError: when weights are missing, or blocks use keys and values of the blocks below them.
    """
    from tasks.core.blocks.streaming import can_stream

    with _opened(source, precision, scratch) as (model, tensors):
        if not can_stream(model):
            raise InputError(
                f"{source.name}: its upper blocks use keys and values of lower ones, so that its blocks cannot be"
                " loaded one at a time: take a machine with memory for the whole model"
            )
        model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
        yield model, tensors


@contextmanager
def open_model(
    source: ModelSource, precision: str, device: str, scratch: Path | None
) -> Iterator[tuple["PreTrainedModel", "StoredTensors | None"]]:
    """Yield the model: whole, with None, or, where a folder `scratch` is given, as `open_streamed`.

    Raises:
        InputError: as `load_model` or `open_streamed`.
    """
    from tasks.models.loading import load_model

    if scratch is None:
        yield load_model(source, precision, device), None
        return
    with open_streamed(source, precision, device, scratch) as opened:
        yield opened


def open_blocks(source: ModelSource, indices: Iterable[int], scratch: Path) -> "PreTrainedModel":
    """Return the model with only these of its blocks in memory, in the number format of its files.

    scratch: as for `open_streamed`.

    Raises:
        InputError: when weights are missing, or the model has no such block.
    """
    from tasks.core.blocks.streaming import load_blocks

    with _opened(source, "auto", scratch) as (model, tensors):
        load_blocks(model, tensors, indices)
        return model


@contextmanager
def _opened(source: ModelSource, precision: str, scratch: Path) -> Iterator[tuple["PreTrainedModel", "StoredTensors"]]:
    from accelerate.hooks import remove_hook_from_module

    from tasks.core.blocks.locate_blocks import find_blocks, skeleton
    from tasks.models.loading import require_weights

    empty = skeleton(load_config(Path(source.path)))
    path, blocks = find_blocks(empty)
    around = {name.rpartition(".")[0] for name in empty.state_dict() if not name.startswith(f"{path}.")}
    places = dict.fromkeys(around, CPU) | {f"{path}.{index}": DISK for index in range(len(blocks))}
    with TemporaryDirectory(prefix="blocks-", dir=scratch) as folder:
        model, report = read_model(
            Path(source.path), source.name, dtype=precision, device_map=places, offload_folder=folder
        )
        require_weights(source, report)
        tensors = _offloaded(model, Path(source.path), Path(folder))
        # transformers' own hooks would load each module of a block anew for every batch.
        remove_hook_from_module(model, recurse=True)
        yield model.eval(), tensors


def _offloaded(model: Any, folder: Path, scratch: Path) -> "StoredTensors":
    """Return the tensors on disk by their names in the model, as accelerate has indexed them."""
    weights = (getattr(getattr(module, "_hf_hook", None), "weights_map", None) for module in model.modules())
    # Each module has a view of one index for the whole model.
    found: Any = next(each for each in weights if each is not None).dataset
    for entry in found.index.values():
        file = Path(entry["safetensors_file"])
        if file.parent != scratch:
            # The model was loaded through links that are gone (`folder_view.only`).
            entry["safetensors_file"] = str(folder / file.name)
    return found
