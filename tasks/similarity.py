"""Similarity: compare the states of every two blocks."""

import logging

from tasks.artifacts.similarity import SimilaritySummary, write_similarity
from tasks.artifacts.states import read_states
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref

logger = logging.getLogger(__name__)


@stage(packages=("torch", "safetensors"))
def similarity(work: Work, states: Ref, *, estimator: str) -> SimilaritySummary:
    """Compute all measures of similarity between the N+1 captured states.

    Writes `tasks.artifacts.similarity.Similarity`. estimator: the matrix that plans are made from. Where one channel
    holds more than half of a state's variance, the log says so.
    """
    from tasks.core.channels import dominated, largest_channels
    from tasks.core.cka import ESTIMATORS, angular_distance, cka

    captured = read_states(work.open(states))
    states_of = captured["states"]
    names = ["the embeddings", *(f"block {index}" for index in range(states_of.shape[0] - 1))]
    matrices = {name: cka(states_of, name, names).float() for name in ESTIMATORS}
    share, channel = largest_channels(states_of)
    write_similarity(
        work.out,
        {
            **matrices,
            "angular_distance": angular_distance(captured["last"]).float(),
            "block_influence": captured["block_influence"],
            "largest_share": share,
            "largest_channel": channel,
        },
    )
    if note := dominated(share.tolist(), channel.tolist(), estimator):
        logger.warning("%s", note)
    adjacent = matrices[estimator].diagonal(1)[1:]
    return {
        "estimator": estimator,
        "num_blocks": captured["states"].shape[0] - 1,
        "num_rows": captured["states"].shape[1],
        "lowest_adjacent": float(adjacent.min()),
        "highest_adjacent": float(adjacent.max()),
    }
