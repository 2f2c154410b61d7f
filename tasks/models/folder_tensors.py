"""The tensors of a model folder that belong to its model: all but those for multi-token prediction.

Several families (DeepSeek-V3, GLM-4.5, Qwen3-Next, MiMo, ERNIE 4.5) store additional blocks that predict further tokens
while serving. transformers does not load them: they are not part of the model that is captured, tuned or scored.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.models.block_names import NUMBERED
from tasks.models.folder_facts import count_blocks, first_number, read_config
from tasks.models.tensor_files import StoredTensor, stored_tensors

# Settings of families for the number of blocks for multi-token prediction.
NUM_PREDICTING_KEYS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "mtp_num_layers")
# A part of a name that identifies them: mtp.layers.0, model.mtp_block.0, model.mtp_emb_norm.
PREDICTING = re.compile(r"(?:^|\.)mtp(?:_\w+)?\.")


def tensors_of(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of the model in `folder`, without those for multi-token prediction.

    Without a config.json all tensors are returned: nothing says which of them are for prediction.
    """
    stored = stored_tensors(folder)
    if not (folder / "config.json").is_file():
        return stored
    left_out = predicting_tensors(stored, read_config(folder), folder)
    return {name: tensor for name, tensor in stored.items() if name not in left_out}


def count_parameters(folder: Path) -> int:
    """Count the parameters of a model folder, each once; reads headers only."""
    return sum(prod(tensor.shape) for tensor in tensors_of(folder).values())


def predicting_tensors(names: Iterable[str], config: dict[str, Any], folder: Path) -> set[str]:
    """Find the tensors for multi-token prediction: by their name, or in blocks that the config counts as such."""
    found = {name for name in names if PREDICTING.search(name)}
    num_blocks, further = count_blocks(config, folder), first_number(config, NUM_PREDICTING_KEYS) or 0
    for indices in _too_long(set(names) - found, num_blocks).values():
        if len(indices) <= num_blocks + further:
            found |= {name for index in range(num_blocks, len(indices)) for name in indices[index]}
    return found


def require_depth(names: Iterable[str], config: dict[str, Any], folder: Path) -> None:
    """Refuse files with more blocks than the config names, unless it says that they are for multi-token prediction.

    Raises:
        InputError: when there are more; names both numbers.
    """
    num_blocks = count_blocks(config, folder)
    for prefix, indices in _too_long(set(names) - predicting_tensors(names, config, folder), num_blocks).items():
        raise InputError(
            f"{folder}: config.json names {num_blocks} blocks, the files hold {len(indices)} ({prefix}0 to"
            f" {prefix}{len(indices) - 1}): correct the number in config.json, or save the model again without the"
            " others. Blocks for multi-token prediction are left out where num_nextn_predict_layers counts them"
        )


def _too_long(names: Iterable[str], num_blocks: int) -> dict[str, dict[int, list[str]]]:
    """Return the names in lists of more than `num_blocks` blocks, by prefix and index; empty if another list fits."""
    lists: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        if match := NUMBERED.fullmatch(name):
            lists[match["prefix"]][int(match["index"])].append(name)
    if any(set(indices) == set(range(num_blocks)) for indices in lists.values()):
        return {}
    return {
        prefix: indices
        for prefix, indices in lists.items()
        if len(indices) > num_blocks and set(indices) == set(range(len(indices)))
    }
