"""Fit the linear stand-ins of several runs of blocks on rows of text, or measure those of all runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from torch import Tensor, nn

from tasks.core.batching import Batch, Example, collate, lengths_of, token_batches
from tasks.core.blocks.devices import input_device
from tasks.core.blocks.length_limits import length_limits
from tasks.core.errors import InputError
from tasks.core.stand_ins.effects import NUM_TOKENS, TOKENS_OF_A_ROW, make_probe
from tasks.core.stand_ins.least_squares import Moments, Run, best_stand_in, measure, solve
from tasks.core.stand_ins.residual_outputs import residual_outputs

# One row of this many is held out, on which penalties are chosen and errors are measured.
HELD_OUT = 5
Progress = Callable[[list], Iterable]


class StandIn(NamedTuple):
    """The stand-in of a run, and held-out errors as shares of the squared norm of what it stands in for.

    matrix: T [d, d], float32, on the CPU; error: with the stand-in; error_without: where the run is only removed.
    """

    run: Run
    matrix: Tensor
    error: float
    error_without: float


class Measured(NamedTuple):
    """Held-out errors of the stand-in of a run, as those of `StandIn`, and its effect on the loss (`Probe.effect`)."""

    run: Run
    error: float
    error_without: float
    effect: float


def fit_stand_ins(
    model: nn.Module,
    examples: Sequence[Example],
    runs: Sequence[Run],
    *,
    max_tokens: int = 4096,
    pad_id: int = 0,
    progress: Progress = iter,
) -> tuple[list[str], Iterator[StandIn]]:
    """Measure the states of all rows, and then solve one run after another; each is fitted to all rows in the end.

    Returns the paths within each block of the linear modules into which the maps are folded, and the stand-ins. Memory:
    two matrices [d, d] for each run and each block in front of one, whatever the number of rows.

    Raises:
        InputError: when the rows are too few, the family has no place for a map, or a state is not finite.
    """
    if not runs:
        return [], iter(())
    rows = _Rows(model, examples, max_tokens, pad_id)
    fitted, held_out = rows.moments(runs, progress)

    def solved() -> Iterator[StandIn]:
        for run in runs:
            alpha, _, found = best_stand_in(fitted, held_out, run)
            matrix = solve(fitted.with_more(held_out, run), run, alpha)
            yield StandIn(run, matrix.cpu(), found, held_out.error_without(run))

    return rows.paths, solved()


def measure_stand_ins(
    model: nn.Module,
    examples: Sequence[Example],
    runs: Sequence[Run],
    *,
    max_tokens: int = 4096,
    pad_id: int = 0,
    progress: Progress = iter,
) -> Iterator[Measured]:
    """Measure how far off the stand-in of each run is on held-out rows, and what that does to the loss.

    Memory: that of `fit_stand_ins`, and for each block three parts of `effects.NUM_TOKENS` tokens.

    Raises:
        InputError: as `fit_stand_ins`.
    """
    if not runs:
        return
    rows = _Rows(model, examples, max_tokens, pad_id)
    fitted, held_out = rows.moments(runs, progress)
    probe = make_probe(model, rows.paths, rows.small, runs)
    for run in runs:
        _, matrix, found = best_stand_in(fitted, held_out, run)
        yield Measured(run, found, held_out.error_without(run), probe.effect(run, matrix.cpu()))


class _Rows:
    """The rows in batches, of which one in `HELD_OUT` is held out."""

    def __init__(self, model: nn.Module, examples: Sequence[Example], max_tokens: int, pad_id: int) -> None:
        if len(examples) < HELD_OUT:
            raise InputError(f"{len(examples)} rows are too few for linear stand-ins: give at least {HELD_OUT}")
        self._model, self._pad_id, self._device = model.eval(), pad_id, input_device(model)
        self.paths = residual_outputs(model)
        self._fitted = self._batches([row for index, row in enumerate(examples) if index % HELD_OUT], max_tokens)
        self._held_out = self._batches(examples[::HELD_OUT], max_tokens)
        # The backward pass keeps the activations of all blocks, and no row should decide alone.
        short = [_beginning(row) for row in examples[::HELD_OUT]]
        small = self._batches(short, min(max_tokens, NUM_TOKENS))
        self.small = (batch.to(self._device) for batch in small)

    def moments(self, runs: Sequence[Run], progress: Progress) -> tuple[Moments, Moments]:
        """Return the sums over the tokens that are fitted to, and over those that are held out."""
        steps = (batch.to(self._device) for batch in progress([*self._fitted, *self._held_out]))
        parts = (islice(steps, len(self._fitted)), steps)
        fitted, held_out = (measure(self._model, self.paths, part, runs) for part in parts)
        return fitted, held_out

    def _batches(self, rows: Sequence[Example], max_tokens: int) -> list[Batch]:
        cut = token_batches(lengths_of(rows), max_tokens, length_limits(self._model.config))
        return [collate([rows[index] for index in indices], self._pad_id) for indices in cut]


def _beginning(row: Example) -> Example:
    """Return the first tokens of a row, all of them as its prompt."""
    return replace(row, prompt_ids=(*row.prompt_ids, *row.answer_ids)[:TOKENS_OF_A_ROW], answer_ids=())
