"""Linear stand-ins for removed blocks, by least squares on states of the full model.

Blocks a+1..b are removed behind block a. Of its output h_a, M is the part that its last linear module has added. The
stand-in is a matrix T that is folded into this module: it makes h_a - M + M T of h_a, and T is chosen so that this is
near to h_b, the output of block b. With D = T - I that is a ridge regression of h_b - h_a on M,

    D = argmin sum_t ||M_t D - (h_b - h_a)_t||^2 + alpha * mean(diag(A)) * ||D||^2,    A = sum_t M_t^T M_t,

so that T is the identity where the removed blocks change nothing. No gradient and no further parameter is needed.
The nearest published method is ReplaceMe (NeurIPS 2025, arXiv 2505.02819).
Shapes: d width, T tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tasks.core.batching import Batch
from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.partial_passes import capture_blocks
from tasks.core.errors import InputError

# (block a in front of the run, last removed block b), a < b
Run = tuple[int, int]
# Ridge penalties, as shares of the mean square of an entry of M, from which the held-out error chooses.
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass
class Moments:
    """Sums over tokens from which stand-ins are solved and judged; memory does not depend on the number of tokens.

    grams: A [d, d] by block a; products: sum of M^T (h_b - h_a) [d, d] by run, both float32; changes: sum of
    ||h_b - h_a||^2 by run; norms: sum of ||h_b||^2 by block.
    """

    grams: dict[int, Tensor] = field(default_factory=dict)
    products: dict[Run, Tensor] = field(default_factory=dict)
    changes: dict[Run, float] = field(default_factory=dict)
    norms: dict[int, float] = field(default_factory=dict)

    def add(self, outputs: dict[int, Tensor], states: dict[int, Tensor], runs: Iterable[Run]) -> None:
        """Add tokens. outputs: M [T, d] by block a; states: h [T, d] by block."""
        for block, output in outputs.items():
            _into(self.grams, block, output.T @ output)
        for block, state in states.items():
            self.norms[block] = self.norms.get(block, 0.0) + float(state.square().sum(dtype=torch.float64))
        for run in runs:
            change = states[run[1]] - states[run[0]]
            _into(self.products, run, outputs[run[0]].T @ change)
            self.changes[run] = self.changes.get(run, 0.0) + float(change.square().sum(dtype=torch.float64))

    def error_without(self, run: Run) -> float:
        """Return the squared error where a run is only removed, as a share of the squared norm of what it gives."""
        return self.changes[run] / self.norms[run[1]]

    def with_more(self, other: "Moments", run: Run) -> "Moments":
        """Return the sums of these tokens and others that the stand-in of one run needs."""
        grams = {run[0]: self.grams[run[0]] + other.grams[run[0]]}
        return Moments(grams, {run: self.products[run] + other.products[run]})


@torch.inference_mode()
def measure(
    model: nn.Module,
    paths: Sequence[str],
    batches: Iterable[Batch],
    runs: Sequence[Run],
) -> Moments:
    """Run batches, on the model's device, through it and sum what the stand-ins of these runs need.

    paths: those of `residual_outputs`. Each token counts with the inverse of its mean squared norm over these blocks,
    so that errors are relative: in many models the states of a row's first token are hundreds of times larger than all
    others (Sun et al. 2024, arXiv 2402.17762). They are not left out: behind the block that makes them so large, a map
    that has not seen them destroys them, and with them the attention of all other tokens.

    Raises:
        InputError: when a state is not finite, or all are zero.
    """
    moments, chosen = Moments(), sorted({block for run in runs for block in run})
    fronts = sorted({first for first, _ in runs})
    with _outputs_of(model, paths, fronts) as outputs, capture_blocks(model, _keeping(chosen), max(chosen)) as run:
        for batch in batches:
            found = run(batch.input_ids, batch.attention_mask)
            counted = batch.attention_mask.bool()

            def tokens(state: Tensor, counted: Tensor = counted) -> Tensor:
                # The blocks of a model that is spread over GPUs are on several of them.
                return state.to(counted.device)[counted].float()

            states = {block: tokens(found[block + 1]) for block in chosen}
            size = torch.stack([state.square().sum(1) for state in states.values()]).mean(0)
            scale = size.clamp_min(torch.finfo(size.dtype).tiny).rsqrt()[:, None]
            scaled = {block: state * scale for block, state in states.items()}
            # OPT runs these modules on all tokens of a batch in one row.
            added = {block: tokens(outputs[block].reshape(*counted.shape, -1)) * scale for block in fronts}
            moments.add(added, scaled, runs)
    if not moments.norms or not all(0 < norm < float("inf") for norm in moments.norms.values()):
        raise InputError("no stand-in can be computed: states of the model are not finite, or all of them are zero")
    return moments


def solve(moments: Moments, run: Run, alpha: float) -> Tensor:
    """Return the stand-in T [d, d] of a run, in float32, for this penalty."""
    gram, product = moments.grams[run[0]], moments.products[run]
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    ridge = alpha * gram.diagonal().mean()
    if not ridge > 0:
        return identity
    return identity + torch.cholesky_solve(product, torch.linalg.cholesky(gram + ridge * identity))


def error(moments: Moments, run: Run, matrix: Tensor) -> float:
    """Return the squared error of a stand-in as a share of the squared norm of what it stands in for.

    The identity has the error of removing the run without a stand-in.
    """
    change = (matrix - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)).double()
    explained = (change * moments.products[run].double()).sum()
    size = (change * (moments.grams[run[0]].double() @ change)).sum()
    left = moments.changes[run] - 2 * float(explained) + float(size)
    return max(left, 0.0) / moments.norms[run[1]]


def best_stand_in(
    fitted: Moments, held_out: Moments, run: Run, alphas: Sequence[float] = ALPHAS
) -> tuple[float, Tensor, float]:
    """Return the penalty whose held-out error is smallest, the stand-in of a run with it, and that error.

    fitted, held_out: different tokens.
    """
    found = ((alpha, matrix := solve(fitted, run, alpha), error(held_out, run, matrix)) for alpha in alphas)
    return min(found, key=lambda each: each[2])


def _into(sums: dict, key: object, value: Tensor) -> None:
    sums[key] = sums[key].add_(value) if key in sums else value


def _keeping(chosen: Sequence[int]) -> Callable[[int, Tensor], Tensor | None]:
    """Keep a copy of the states behind these blocks alone: some families add to a state in place, later in the pass."""
    wanted = {block + 1 for block in chosen}
    return lambda position, state: state.clone() if position in wanted else None


@contextmanager
def _outputs_of(model: nn.Module, paths: Sequence[str], chosen: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Yield the outputs [B, T, d] of the linear modules of these blocks in the last pass."""
    blocks, found = get_blocks(model), dict[int, Tensor]()

    def keep(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple, output: Tensor) -> None:
            found[index] = output

        return hook

    handles = [blocks[index].get_submodule(paths[index]).register_forward_hook(keep(index)) for index in chosen]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
