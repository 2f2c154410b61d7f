"""Structure: find modules in the stack of blocks, and measure how certain they are."""

from typing import TYPE_CHECKING, Any

from tasks.artifacts.states import read_states
from tasks.artifacts.study.modules import StructureFacts, StructureSummary, write_structure
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.core.study.bootstrap import RowSample, Spread
    from tasks.core.study.modularity import Modularity


@stage(packages=("torch", "numpy", "safetensors"))
def structure(
    work: Work,
    states: Ref,
    *,
    estimator: str,
    num_bootstraps: int = 100,
    num_samples: tuple[int, ...] = (),
    seed: int = 0,
) -> StructureSummary:
    """Find modules in the similarity of the N blocks, and how they depend on the captured rows.

    states: of `capture`; estimator: linear_cka, debiased_cka or rbf_cka; num_bootstraps: resamples of the rows, and
    subsets of each size; num_samples: sizes of subsets, of which those below the number of rows are used.
    Writes the tensors of `tasks.artifacts.study.modules.Structure`.

    Raises:
        InputError: as `linear_cka`, or when there are fewer than 3 blocks or 2 bootstraps.
    """
    from tasks.core.study.bootstrap import RowSample, bootstrap, subsample
    from tasks.core.study.modularity import modularity

    # Without state 0, the embeddings, which is not the output of a block.
    sample = RowSample(read_states(work.open(states))["states"][1:], estimator)
    similarity = sample.similarity(range(sample.num_rows))
    found = modularity(similarity, seed=seed)
    spread = bootstrap(sample, found.cut, num_bootstraps, seed)
    sizes = [size for size in sorted(set(num_samples)) if size < sample.num_rows]
    subsets = {
        size: subsample(sample, found.cut, size, num_bootstraps, seed)
        for size in work.progress(sizes, "numbers of rows")
    }
    tensors = _tensors(similarity, found, spread) | _by_size(sample, similarity, found, subsets)
    write_structure(work.out, tensors)
    return {
        "estimator": estimator,
        "num_blocks": len(similarity),
        "num_rows": sample.num_rows,
        "num_bootstraps": num_bootstraps,
        **_facts(found, spread),
    }


def _facts(found: "Modularity", spread: "Spread") -> StructureFacts:
    """Return facts about the best cut, into `num_runs` runs; only `num_modules` is 1 if chance does as well."""
    return {
        "modularity": found.score,
        "modularity_deviation": float(spread.scores.std(ddof=1)),
        "modularity_by_chance": found.by_chance,
        "p_value": found.p_value,
        "num_modules": len(found.modules),
        "num_runs": len(found.cut),
        "stability": float(spread.agreement.mean()),
        "same_number": float((spread.counts == len(found.cut)).mean()),
    }


def _tensors(similarity: Any, found: "Modularity", spread: "Spread") -> "dict[str, Tensor]":
    """Return the tensors computed from all rows and their bootstraps."""
    from tasks.core.clustering import adjacent_similarity

    return {
        "similarity": _stored(similarity),
        "module": _stored([number for number, run in enumerate(found.cut) for _ in run]),
        "gains": _stored(found.gains),
        "adjacent": _stored(adjacent_similarity(similarity)),
        "adjacent_deviation": _stored(spread.deviation()),
        "together": _stored(spread.together),
        "boundaries": _stored(spread.boundaries),
        "scores": _stored(spread.scores),
        "counts": _stored(spread.counts),
    }


def _by_size(
    sample: "RowSample", similarity: Any, found: "Modularity", subsets: "dict[int, Spread]"
) -> "dict[str, Tensor]":
    """Return similarity and modularity as functions of the number of rows, with all rows last."""
    from tasks.core.clustering import adjacent_similarity

    adjacent = adjacent_similarity(similarity)
    fewer = subsets.values()
    return {
        "num_samples": _stored([*subsets, sample.num_rows]),
        "adjacent_by_size": _stored([*(subset.adjacent.mean(0) for subset in fewer), adjacent]),
        "adjacent_deviation_by_size": _stored([*(subset.deviation() for subset in fewer), 0 * adjacent]),
        "score_by_size": _stored([*(subset.scores.mean() for subset in fewer), found.score]),
        "agreement_by_size": _stored([*(subset.agreement.mean() for subset in fewer), 1.0]),
    }


def _stored(values: Any) -> "Tensor":
    """Return values as a tensor: integers as they are, others in float32."""
    import numpy as np
    import torch

    tensor = torch.from_numpy(np.array(values))
    return tensor.float() if tensor.is_floating_point() else tensor
