"""Scores of blocks, choices of blocks by them, and their update by rewards: ScaleOT's LayerReplace (arXiv 2412.09812).

A block with the score s has the worth p = sigmoid(s). A *choice* keeps one half of every group of neighbouring blocks;
the others are replaced. The description of the paper that this follows leaves open how a choice is drawn. Here logistic
noise is added to every score, so that a single block would exceed one half with probability p (the binary case of
Maddison et al. 2017, arXiv 1611.00712), and in each group the blocks with the higher noisy worth are kept. So every
block is replaced now and then.
Shapes: N blocks, M choices.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.core.harmonizers.settings import num_harmonized
from tasks.core.plan.layout import Plan

# Distance of the uniform numbers from 0 and 1, at which their logit is infinite.
EPSILON = 1e-9


def make_groups(candidates: Sequence[int], size: int) -> list[list[int]]:
    """Cut ascending blocks into groups of neighbours of nearly equal size, at least `size` where there are as many."""
    count = max(1, len(candidates) // size)
    return [group.tolist() for group in torch.tensor(candidates, dtype=torch.long).tensor_split(count)]


def draw_choice(scores: Tensor, groups: Sequence[Sequence[int]], generator: torch.Generator) -> Tensor:
    """Draw which blocks are kept, bool [N]: of each group those at or above the median of the noisy worths.

    scores: float64 [N]. Blocks outside the groups are always kept, and of an odd group the larger half.
    """
    uniform = torch.rand(len(scores), generator=generator, dtype=torch.float64)
    # The sigmoid keeps the order, so that it need not be computed.
    noisy = scores + torch.logit(uniform, EPSILON)
    kept = torch.ones(len(scores), dtype=torch.bool)
    for group in groups:
        lowest = noisy[list(group)].argsort()[: len(group) // 2]
        kept[torch.tensor(group)[lowest]] = False
    return kept


def updated_scores(scores: Tensor, choices: Tensor, losses: Tensor, rate: float) -> Tensor:
    """Return s + rate * sum over choices of r p (1 - p) m, with the reward r = exp(-L) - its mean over the choices.

    scores: [N]; choices (m): bool [M, N]; losses (L): of each choice, in nats a token [M]. A block that all choices
    keep, or none, has the same score as before, up to rounding.
    """
    rewards = torch.exp(-losses)
    rewards = rewards - rewards.mean()
    worth = torch.sigmoid(scores)
    return scores + rate * worth * (1 - worth) * (rewards.unsqueeze(1) * choices).sum(0)


def harmonized_blocks(plan: Plan, scores: Sequence[float], share: float) -> list[int]:
    """Return the removed blocks that get their harmonizer: a share of them, those with the highest scores.

    At least one, and on a tie the lower blocks. The description that this follows leaves open which blocks they are.
    """
    removed = [block for block in range(plan.num_blocks) if block not in plan.kept]
    best = sorted(removed, key=lambda block: (-float(scores[block]), block))
    return sorted(best[: num_harmonized(len(removed), share)])
