"""How far do similarities, and the modules found in them, depend on which rows were captured, and on how many?

Sources: bootstrap: Efron 1979; agreement of two clusterings corrected for chance: Hubert and Arabie 1985.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.core.cka import ESTIMATORS, MIN_ROWS, centre, checked_norm, kernels
from tasks.core.clustering import Clusters, adjacent_similarity
from tasks.core.errors import InputError
from tasks.core.study.modularity import Cuts, modularity_score


class RowSample:
    """CKA of N states on any choice of their rows, from kernels that are computed once (float32, 4 N n^2 bytes).

    states: [N, n, d]. Raises InputError for an unknown estimator and as `linear_cka`. The RBF kernel keeps the
    bandwidth of all rows.
    """

    def __init__(self, states: Tensor, estimator: str, names: Sequence[str] | None = None) -> None:
        if estimator not in ESTIMATORS:
            raise InputError(f"estimator = {estimator!r}; choose from {', '.join(ESTIMATORS)}")
        kernel, self.debiased = ESTIMATORS[estimator]
        self._kernels = torch.stack([gram.float() for gram in kernels(states, kernel, names)])
        self._names = names or [f"block {index}" for index in range(len(states))]
        self.num_states, self.num_rows, _ = self._kernels.shape

    def similarity(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """[N, N] float64 of these rows, which may repeat; to the debiased estimator a repeated row is one row.

        An unbiased HSIC sums over pairs of different rows, and a row is no pair with itself. Raises InputError where
        the rows of a state do not differ by more than rounding.
        """
        device = self._kernels.device
        chosen = torch.as_tensor(np.unique(rows) if self.debiased else np.asarray(rows), device=device)
        flat = torch.empty(self.num_states, len(chosen) ** 2, dtype=torch.float64, device=device)
        for index, gram in enumerate(self._kernels):
            own = gram.index_select(0, chosen).index_select(1, chosen).double()
            # As of all rows: what is left of equal rows is rounding, and the kernel is no more exact than its type.
            noise = torch.finfo(gram.dtype).eps * own.norm()
            name = f"{self._names[index]} in {len(chosen)} rows that were drawn"
            centred = centre(own, self.debiased).flatten()
            torch.div(centred, checked_norm(centred, noise, name), out=flat[index])
        return (flat @ flat.T).fill_diagonal_(1.0).cpu().numpy()


@dataclass(frozen=True)
class Spread:
    """What resampling the rows gives, each time cut into as many runs as all rows are. B resamples, N blocks.

    adjacent: [B, N-1] similarity of neighbours; scores: [B] modularity; agreement: [B] adjusted Rand index with the
    cut of all rows (1: the same, 0: as alike as by chance); counts: [B] number of runs of the best cut (`Cuts.best`);
    together: [N, N] share in which two blocks are in one run; boundaries: [N-1] share in which blocks i and i+1 are in
    different ones. Nothing is left out for its p.
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
        """[N-1]: standard deviation over resamples of the similarity of neighbours.

        Not percentiles: rows that were drawn twice look alike in every state, so resamples of a biased estimator lie
        above the estimate itself.
        """
        return self.adjacent.std(axis=0, ddof=1)


def bootstrap(sample: RowSample, cut: Clusters, num_resamples: int, seed: int = 0) -> Spread:
    """As many rows, drawn with replacement. cut: that of all rows. InputError unless num_resamples >= 2."""
    return _spread(sample, cut, _draws(sample.num_rows, num_resamples, seed), num_resamples)


def subsample(sample: RowSample, cut: Clusters, num_rows: int, num_resamples: int, seed: int = 0) -> Spread:
    """`num_rows` of the rows, drawn without replacement. InputError unless 4 <= num_rows <= n."""
    if not MIN_ROWS <= num_rows <= sample.num_rows:
        raise InputError(f"{num_rows} of {sample.num_rows} rows: take between {MIN_ROWS} and all of them")
    generator = np.random.default_rng(seed)
    draws = (generator.permutation(sample.num_rows)[:num_rows] for _ in range(num_resamples))
    return _spread(sample, cut, draws, num_resamples)


def adjusted_rand(first: Sequence[Sequence[int]], second: Sequence[Sequence[int]]) -> float:
    """Agreement of two clusterings of the same blocks: 1 for the same, 0 on average for independent ones.

    1 as well where both have a single cluster, or one for every block, and no other agreement was possible.
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
    """Rows with replacement; what holds too few different ones for any estimator is drawn again."""
    generator = np.random.default_rng(seed)
    for _ in range(num_resamples):
        rows = generator.integers(num_rows, size=num_rows)
        while len(np.unique(rows)) < MIN_ROWS:
            rows = generator.integers(num_rows, size=num_rows)
        yield rows


def _pairs(counts: np.ndarray) -> float:
    return float((counts * (counts - 1) / 2).sum())
