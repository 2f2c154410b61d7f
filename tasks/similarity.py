"""Similarity: compare the states of every two blocks."""

from tasks.artifacts.similarity import SimilaritySummary, write_similarity
from tasks.artifacts.states import read_states
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("torch", "safetensors"))
def similarity(work: Work, states: Ref, *, estimator: str) -> SimilaritySummary:
    """Compute all measures of similarity between the N+1 captured states.

    Writes `tasks.artifacts.similarity.Similarity`. estimator: the matrix that plans are made from.
    """
    from tasks.core.cka import angular_distance, linear_cka, rbf_cka

    captured = read_states(work.open(states))
    states_of = captured["states"]
    names = ["the embeddings", *(f"block {index}" for index in range(states_of.shape[0] - 1))]
    matrices = {
        "linear_cka": linear_cka(states_of, names=names),
        "debiased_cka": linear_cka(states_of, debiased=True, names=names),
        "rbf_cka": rbf_cka(states_of, names=names),
        "angular_distance": angular_distance(captured["last"]),
    }
    tensors = {name: matrix.float() for name, matrix in matrices.items()}
    write_similarity(work.out, {**tensors, "block_influence": captured["block_influence"]})
    adjacent = matrices[estimator].diagonal(1)[1:]
    return {
        "estimator": estimator,
        "num_blocks": captured["states"].shape[0] - 1,
        "num_rows": captured["states"].shape[1],
        "lowest_adjacent": float(adjacent.min()),
        "highest_adjacent": float(adjacent.max()),
    }
