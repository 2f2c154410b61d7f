"""Convert weights in pickled `.bin` files to safetensors, once and tensor by tensor. No pickle is ever run.

`torch.load(weights_only=True)` builds tensors and containers only and refuses every other instruction.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError, RefusedError
from tasks.models.folder import copy_companions, load_config
from tasks.models.tensor_files import read_index, write_tensors
from tasks.models.tensor_sources import MemoryTensor
from tasks.store.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

SINGLE_FILE = "pytorch_model.bin"
INDEX_FILE = "pytorch_model.bin.index.json"


def to_safetensors(folder: Path, out: Path) -> None:
    """Write the model of `folder`, whose weights are pickled, as a safetensors folder `out` (config, tokenizer too).

    Raises:
        InputError: when there are no such weights.
        RefusedError: when a file would build anything but tensors.
    """
    config = load_config(folder)
    tensors = {name: MemoryTensor(tensor) for file in _files(folder) for name, tensor in _load(file).items()}
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(list(tensors.items()), out)
    copy_companions(folder, out)
    write_text(out / "config.json", config.to_json_string())


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        raise InputError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}")
    return [folder / name for name in sorted(set(read_index(folder / INDEX_FILE).values()))]


def _load(file: Path) -> "dict[str, Tensor]":
    import pickle
    import zipfile

    import torch

    try:
        # Files from before PyTorch 1.6 are not zip archives and cannot be memory-mapped.
        state = torch.load(file, weights_only=True, mmap=zipfile.is_zipfile(file), map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise RefusedError(
            f"{file} is damaged or holds more than tensors, and nothing in it was run. Ask for safetensors weights"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise RefusedError(f"{file} is not a dictionary of tensors. Ask for safetensors weights")
    return state
