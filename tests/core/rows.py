"""Rows for tiny models."""

import torch

from tasks.core.batching import Example


def rows() -> list[Example]:
    """Five rows of different lengths."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for number, (before, after) in enumerate([(3, 2), (7, 1), (1, 4), (5, 3), (2, 2)]):
        ids = torch.randint(3, 64, (before + after,), generator=generator).tolist()
        made.append(Example(tuple(ids[:before]), tuple(ids[before:]), number))
    return made
