"""Canaries: random rows that a tuning can only memorise, and how well the tuned blocks give away that they were there.

Some canaries are among the training rows, others of the same distribution are not. Whoever has the blocks before and
after the tuning computes how much the loss of each canary fell, and says of those that fell furthest that they were
there (membership inference with a calibrated score: Watson et al. 2022, Carlini et al. 2022). A canary has no pattern
in common with another row, so that this is close to the most that can be said of any row that is there once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tasks.core.batching import Example

PROMPT_TOKENS = ANSWER_TOKENS = 8
# Canaries outside of the training cost a forward pass each; at 1% false positives ten of them are recognised wrongly.
NUM_OUTSIDE = 1000
FALSE_POSITIVES = 0.01


@dataclass(frozen=True)
class Exposure:
    """Recognition of canaries of the training among others.

    true_positives: share of those recognised where `FALSE_POSITIVES` of the others are; area: under the curve of true
    over false positives, 0.5 by guessing; bits: mean exposure (Carlini et al. 2019), 1.4 by guessing, and at most
    log2(number of others + 1).
    """

    true_positives: float
    area: float
    bits: float


def make_canaries(num_canaries: int, token_ids: Sequence[int], seed: int) -> list[Example]:
    """Return rows of random tokens: the same for the same arguments. token_ids: to draw from."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(len(token_ids), (num_canaries, PROMPT_TOKENS + ANSWER_TOKENS), generator=generator)
    rows = [tuple(token_ids[place] for place in row) for row in places.tolist()]
    return [Example(row[:PROMPT_TOKENS], row[PROMPT_TOKENS:], number) for number, row in enumerate(rows)]


def measure_exposure(inside: Sequence[float], outside: Sequence[float]) -> Exposure:
    """Compare the scores of canaries that were in the training with those of others; higher: more likely in it.

    Of equal scores, the one of the canary outside counts as higher.
    """
    scores, others = np.asarray(inside, dtype=float), np.sort(np.asarray(outside, dtype=float))
    # Of each canary inside: how many of the others score at least as high.
    above = len(others) - np.searchsorted(others, scores, side="left")
    ranks = above + 1
    return Exposure(
        true_positives=float((above <= FALSE_POSITIVES * len(others)).mean()),
        area=float(1 - (above / len(others)).mean()),
        bits=float(np.log2((len(others) + 1) / ranks).mean()),
    )
