"""Scoring passes whose rows are trees: a prompt once, and behind it all its continuations side by side.

A mask lets each token attend to the prompt and to its own continuation, and each has the position that it has in its
input. Unlike a pass in two parts (`shared_prompts`), no keys and values are kept, and short prompts cost one pass.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.core.batching import token_batches
from tasks.core.blocks.length_limits import NO_LIMITS, LengthLimits
from tasks.core.blocks.locate_blocks import get_stack, text_config
from tasks.core.evaluation.scoring_pass import Group, Ids, ScoringPass

# Longest tree: a token is compared with all others of its row, also with those that it does not attend to.
LONGEST = 1024
# Lengths of windows and chunks, under the names that families give them; the masks of trees know neither.
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
# Implementations of attention that take any mask.
MASKED = ("eager", "sdpa")


def longest_tree(model: Any) -> int:
    """Return the number of tokens up to which the model's rows may be trees; 0 when it takes no positions or no mask.

    Biases by distance (ALiBi) follow the order of tokens in a row, and windows count tokens in it.
    """
    config = text_config(model.config)
    takes = inspect.signature(get_stack(model).forward).parameters
    if not {"position_ids", "attention_mask"} <= takes.keys() or getattr(config, "alibi", False):
        return 0
    if config._attn_implementation not in MASKED:
        return 0
    return min([LONGEST, *(length for name in WINDOWS if (length := getattr(config, name, None)))])


def tree_length(lengths: Sequence[int], group: Group) -> int:
    """Return the number of tokens of a group's tree. lengths: those of all inputs."""
    return group.shared + sum(lengths[member] - group.shared for member in group.members)


def tree_passes(
    lengths: Sequence[int], groups: Sequence[Group], max_tokens: int, limits: LengthLimits
) -> list[ScoringPass]:
    """Cut trees into passes of at most `max_tokens` padded tokens, those of each side of the limits apart."""
    by_side: dict[tuple[int, int], list[Group]] = {}
    for group in groups:
        side = limits.group(max(lengths[member] for member in group.members))
        by_side.setdefault(side, []).append(group)
    found = []
    for same in by_side.values():
        for batch in token_batches([tree_length(lengths, group) for group in same], max_tokens, NO_LIMITS):
            trees = tuple(same[place] for place in batch)
            found.append(ScoringPass(tuple(member for tree in trees for member in tree.members), trees=trees))
    return found


@dataclass(frozen=True)
class TreeBatch:
    """Trees as model inputs. ids, positions: [B, T], padded on the right; mask: [B, 1, T, T], added to the scores.

    begins: for each input, its row and the column of its first token behind the prompt.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    begins: dict[int, tuple[int, int]]


def tree_batch(inputs: Sequence[Ids], trees: Sequence[Group], dtype: torch.dtype) -> TreeBatch:
    """Lay out trees as one batch. dtype: of the model's states."""
    lengths = [len(ids) for ids in inputs]
    longest = max(tree_length(lengths, tree) for tree in trees)
    ids, positions = torch.zeros(2, len(trees), longest, dtype=torch.long)
    # The continuation to which each token belongs; 0 for the prompt, -1 for padding.
    branches = torch.full((len(trees), longest), -1)
    begins = {}
    for row, tree in enumerate(trees):
        ids[row, : tree.shared] = torch.tensor(inputs[tree.members[0]][: tree.shared])
        positions[row, : tree.shared] = torch.arange(tree.shared)
        branches[row, : tree.shared] = 0
        column = tree.shared
        for branch, member in enumerate(tree.members, start=1):
            rest = inputs[member][tree.shared :]
            place = slice(column, column + len(rest))
            ids[row, place] = torch.tensor(rest, dtype=torch.long)
            positions[row, place] = torch.arange(tree.shared, tree.shared + len(rest))
            branches[row, place] = branch
            begins[member] = (row, column)
            column += len(rest)
    same = branches[:, :, None] == branches[:, None, :]
    seen = (same | (branches[:, None, :] == 0)).tril()
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return TreeBatch(ids, positions, mask.unsqueeze(1), begins)
