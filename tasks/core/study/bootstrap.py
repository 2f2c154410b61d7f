"""Resampling of rows: how similarities and modules depend on which rows were captured, and on how many.

Sources: bootstrap: Efron 1979; agreement of two clusterings corrected for chance: Hubert and Arabie 1985.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.core.cka import MIN_ROWS, centre, checked_norm, estimator_named, kernels
from tasks.core.clustering import Clusters, adjacent_similarity
from tasks.core.errors import InputError
from tasks.core.study.modularity import Cuts, modularity_score


class RowSample:
    """CKA of N states on any choice of their rows, from kernels that are computed once (float32, 4 N n^2 bytes).

    states: [N, n, d]. The RBF kernel keeps the bandwidth of all rows, and channels are left out or
    standardised by all rows.

    Raises:
        InputError: when the estimator is unknown, and as `linear_cka`.
    """

    def __init__(self, states: Tensor, estimator: str, names: Sequence[str] | None = None) -> None:
        kernel, self.debiased, prepared = estimator_named(estimator)
        self._kernels = torch.stack([gram.float() for gram in kernels(prepared(states), kernel, names)])
        self._names = names or [f"block {index}" for index in range(len(states))]
        self.num_states, self.num_rows, _ = self._kernels.shape

    def similarity(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """CKA on these rows, [N, N] float64. Rows may repeat, but the debiased estimator counts a repeated row once.

        The unbiased HSIC sums over pairs of different rows, and a row and its copy are not such a pair.

        Raises:
            InputError: when the rows of a state differ only by rounding.
        """
        device = self._kernels.device
        chosen = torch.as_tensor(np.unique(rows) if self.debiased else np.asarray(rows), device=device)
        flat = torch.empty(self.num_states, len(chosen) ** 2, dtype=torch.float64, device=device)
        for index, gram in enumerate(self._kernels):
            own = gram.index_select(0, chosen).index_select(1, chosen).double()
            # As for all rows: equal rows leave only rounding errors, of the precision of the kernel's data type.
            noise = torch.finfo(gram.dtype).eps * own.norm()
            name = f"{self._names[index]} in {len(chosen)} rows that were drawn"
            centred = centre(own, self.debiased).flatten()
            torch.div(centred, checked_norm(centred, noise, name), out=flat[index])
        return (flat @ flat.T).fill_diagonal_(1.0).cpu().numpy()


@dataclass(frozen=True)
class Spread:
    """Results of B resamples of the rows for N blocks, each cut into as many runs as the cut of all rows.

    adjacent: [B, N-1], similarity of neighbours; scores: [B], modularity; agreement: [B], adjusted Rand index with the
    cut of all rows (1: equal, 0: as similar as by chance); counts: [B], number of runs of the best cut (`Cuts.best`);
    together: [N, N], share of resamples with both blocks in one run; boundaries: [N-1], share with blocks i and i+1 in
    different runs. No resample is left out because of its p-value.
    """

    adjacent: np.ndarray
    scores: np.ndarray
    agreement: np.ndarray
    counts: np.ndarray
    together: np.ndarray

    @property
    def boundaries(self) -> np.ndarray:
        return 1.0 - np.diagonal(self.together, 1)

    def deviation(self) -> np.ndarray:
        """Standard deviation over resamples of the similarity of neighbours, [N-1].

        Percentiles would be wrong: rows that were drawn twice are equal in every state, so resamples of a biased
        estimator are higher than the estimate.
        """
        return self.adjacent.std(axis=0, ddof=1)


def bootstrap(sample: RowSample, cut: Clusters, num_resamples: int, seed: int = 0) -> Spread:
    """Resample all rows with replacement. cut: the cut of all rows.

    Raises:
        InputError: unless num_resamples >= 2, and as `RowSample.similarity`.
    """
    return _spread(sample, cut, _draws(sample.num_rows, num_resamples, seed), num_resamples)


def subsample(sample: RowSample, cut: Clusters, num_rows: int, num_resamples: int, seed: int = 0) -> Spread:
    """Resample `num_rows` of the rows without replacement. cut: the cut of all rows.

    Raises:
        InputError: unless 4 <= num_rows <= n and num_resamples >= 2, and as `RowSample.similarity`.
    """
    if not MIN_ROWS <= num_rows <= sample.num_rows:
        raise InputError(f"{num_rows} of {sample.num_rows} rows: take between {MIN_ROWS} and all of them")
    generator = np.random.default_rng(seed)
    draws = (generator.permutation(sample.num_rows)[:num_rows] for _ in range(num_resamples))
    return _spread(sample, cut, draws, num_resamples)


def adjusted_rand(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Adjusted Rand index of two clusterings of the same blocks: 1 for equal ones, 0 on average for independent ones.

    It is also 1 when both have a single cluster, or one for every block, as no other agreement is possible.
    """
    table = np.array([[len(set(left) & set(right)) for right in second] for left in first], dtype=float)
    num_pairs = _pairs(np.array([table.sum()]))
    together, rows, columns = _pairs(table.ravel()), _pairs(table.sum(1)), _pairs(table.sum(0))
    expected = rows * columns / num_pairs
    highest = (rows + columns) / 2
    return 1.0 if highest == expected else float((together - expected) / (highest - expected))


def _spread(sample: RowSample, cut: Clusters, draws: Iterator[np.ndarray], num_resamples: int) -> Spread:
    if num_resamples < 2:
        raise InputError(f"{num_resamples} resamples show no spread; take at least 2")
    adjacent, scores, agreement, counts = [], [], [], []
    together = np.zeros((sample.num_states, sample.num_states))
    for rows in draws:
        matrix = sample.similarity(rows)
        cuts = Cuts(matrix)
        found = cuts.into(len(cut))
        counts.append(len(cuts.best()))
        adjacent.append(adjacent_similarity(matrix))
        scores.append(modularity_score(matrix, found))
        agreement.append(adjusted_rand(found, cut))
        for module in found:
            together[np.ix_(module, module)] += 1 / num_resamples
    return Spread(np.stack(adjacent), np.array(scores), np.array(agreement), np.array(counts), together)


def _draws(num_rows: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield rows drawn with replacement; a draw with too few different rows for any estimator is repeated."""
    generator = np.random.default_rng(seed)
    for _ in range(num_resamples):
        rows = generator.integers(num_rows, size=num_rows)
        while len(np.unique(rows)) < MIN_ROWS:
            rows = generator.integers(num_rows, size=num_rows)
        yield rows


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1) / 2).sum())
