"""Structure: is the stack of blocks made of modules, of how many, and how sure is that?"""

from typing import Any

from tasks.store.artifacts import Ref
from tasks.store.stage import stage
from tasks.store.work import Work


@stage(packages=("torch", "numpy", "safetensors"))
def structure(
    work: Work,
    states: Ref,
    *,
    estimator: str,
    num_bootstraps: int = 100,
    num_samples: tuple[int, ...] = (),
    seed: int = 0,
) -> dict:
    """Modules in the similarity of the N blocks, and how they change with the rows that were captured.

    states: of `capture`; estimator: linear_cka, debiased_cka or rbf_cka; num_bootstraps: resamples of the rows, and
    subsets of each size; num_samples: sizes of subsets, of which those below the number of rows count.
    Writes `structure.safetensors`: `similarity` [N, N], `module` [N] (number of each block's module), `gains` [N]
    (modularity of the best cut into 1, 2, ... N modules), `adjacent` [N-1], of the bootstrap `adjacent_deviation`
    [N-1], `together` [N, N], `boundaries` [N-1] and `scores` [B] (see `Spread`), and by number of rows
    `num_samples` [M], `adjacent_by_size` and `adjacent_deviation_by_size` [M, N-1], `score_by_size` and
    `agreement_by_size` [M] (means; the last size is all rows). Similarities are CKA, without unit.
    Errors: InputError as `linear_cka`, or for fewer than 3 blocks or 2 bootstraps.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file

    from tasks.core.bootstrap import RowSample, bootstrap, subsample
    from tasks.core.clustering import adjacent_similarity
    from tasks.core.modularity import modularity

    # State 0 is the embeddings, which no block made.
    captured = load_file(work.open(states) / "states.safetensors")["states"][1:]
    sample = RowSample(captured, estimator)
    similarity = sample.similarity(range(sample.num_rows))
    found = modularity(similarity, seed=seed)
    spread = bootstrap(sample, found.modules, num_bootstraps, seed)
    adjacent = adjacent_similarity(similarity)
    sizes = [size for size in sorted(set(num_samples)) if size < sample.num_rows]
    subsets = [
        subsample(sample, found.modules, size, num_bootstraps, seed) for size in work.progress(sizes, "numbers of rows")
    ]
    arrays = {
        "similarity": similarity,
        "module": [number for number, module in enumerate(found.modules) for _ in module],
        "gains": found.gains,
        "adjacent": adjacent,
        "adjacent_deviation": spread.deviation(),
        "together": spread.together,
        "boundaries": spread.boundaries,
        "scores": spread.scores,
        "num_samples": [*sizes, sample.num_rows],
        "adjacent_by_size": [*(subset.adjacent.mean(0) for subset in subsets), adjacent],
        "adjacent_deviation_by_size": [*(subset.deviation() for subset in subsets), 0 * adjacent],
        "score_by_size": [*(subset.scores.mean() for subset in subsets), found.score],
        "agreement_by_size": [*(subset.agreement.mean() for subset in subsets), 1.0],
    }
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    save_file({name: _stored(tensor) for name, tensor in tensors.items()}, work.out / "structure.safetensors")
    return {
        "estimator": estimator,
        "num_blocks": len(similarity),
        "num_rows": sample.num_rows,
        "num_bootstraps": num_bootstraps,
        "modularity": found.score,
        "modularity_deviation": float(spread.scores.std(ddof=1)),
        "modularity_by_chance": found.by_chance,
        "p_value": found.p_value,
        "num_modules": found.num_modules,
        "stability": float(spread.agreement.mean()),
    }


def _stored(tensor: Any) -> Any:
    return tensor.float().contiguous() if tensor.is_floating_point() else tensor
