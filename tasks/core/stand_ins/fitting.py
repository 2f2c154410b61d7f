"""Fit the linear stand-ins of several runs of blocks on rows of text: those of one plan, or of every plan."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from torch import Tensor, nn

from tasks.core.batching import Batch, Example, collate, lengths_of, token_batches
from tasks.core.blocks.devices import input_device
from tasks.core.blocks.length_limits import length_limits
from tasks.core.errors import InputError
from tasks.core.stand_ins.least_squares import Moments, Run, best_stand_in, measure
from tasks.core.stand_ins.residual_outputs import residual_outputs

# One row of this many is held out, on which penalties are chosen and errors are measured.
HELD_OUT = 5


class StandIn(NamedTuple):
    """The stand-in of a run, and held-out errors as shares of the squared norm of what it stands in for.

    matrix: T [d, d], float32, on the CPU; error: with the stand-in; error_without: where the run is only removed.
    """

    run: Run
    matrix: Tensor
    error: float
    error_without: float


def fit_stand_ins(
    model: nn.Module,
    examples: Sequence[Example],
    runs: Sequence[Run],
    *,
    max_tokens: int = 4096,
    pad_id: int = 0,
    progress: Callable[[list], Iterable] = iter,
) -> tuple[list[str], Iterator[StandIn]]:
    """Measure the states of all rows, and then solve one run after another.

    Returns the paths within each block of the linear modules into which the maps are folded, and the stand-ins. Memory:
    two matrices [d, d] for each run and each block in front of one, whatever the number of rows.

    Raises:
        InputError: when the rows are too few, the family has no place for a map, or a state is not finite.
    """
    if len(examples) < HELD_OUT:
        raise InputError(f"{len(examples)} rows are too few for linear stand-ins: give at least {HELD_OUT}")
    if not runs:
        return [], iter(())
    model.eval()
    paths, device = residual_outputs(model), input_device(model)

    def batches(rows: Sequence[Example]) -> list[Batch]:
        cut = token_batches(lengths_of(rows), max_tokens, length_limits(model.config))
        return [collate([rows[index] for index in indices], pad_id) for indices in cut]

    fitted = batches([row for index, row in enumerate(examples) if index % HELD_OUT])
    held_out = batches(examples[::HELD_OUT])
    steps = (batch.to(device) for batch in progress([*fitted, *held_out]))
    moments = [measure(model, paths, part, runs) for part in (islice(steps, len(fitted)), steps)]
    return paths, _solved(moments[0], moments[1], runs)


def _solved(fitted: Moments, held_out: Moments, runs: Sequence[Run]) -> Iterator[StandIn]:
    for run in runs:
        matrix, found = best_stand_in(fitted, held_out, run)
        yield StandIn(run, matrix.cpu(), found, held_out.changes[run] / held_out.norms[run[1]])
