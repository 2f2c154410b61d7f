"""Random checkpoints of any size, written without ever holding more than a few megabytes."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from transformers import PreTrainedConfig

from tasks.core.blocks.locate_blocks import skeleton
from tasks.models.tensor_files import write_tensors

CHUNK = 1 << 20
SCALE = 0.02
SHARD_BYTES = 500_000_000


@dataclass(frozen=True)
class RandomTensor:
    """Small normal numbers in bfloat16, made while they are written."""

    shape: tuple[int, ...]
    dtype: str = "BF16"

    @property
    def num_bytes(self) -> int:
        return 2 * torch.Size(self.shape).numel()

    def write_to(self, target: BinaryIO) -> None:
        left = torch.Size(self.shape).numel()
        while left:
            values = (torch.randn(min(CHUNK, left)) * SCALE).bfloat16()
            target.write(values.view(torch.uint8).numpy().tobytes())
            left -= len(values)


def write_checkpoint(folder: Path, config: PreTrainedConfig) -> int:
    """Write a model of this config in shards; return the bytes of its tensors."""
    torch.manual_seed(0)
    tensors = [(name, RandomTensor(tuple(tensor.shape))) for name, tensor in skeleton(config).state_dict().items()]
    write_tensors(tensors, folder, max_shard_bytes=SHARD_BYTES)
    config.save_pretrained(folder)
    return sum(tensor.num_bytes for _, tensor in tensors)
