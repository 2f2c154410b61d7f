"""Draw the picture of all strategies: `python -m docs.generate.strategy_picture docs/strategies.png`.

Strategies that look at the model look at a made-up one: 24 residual blocks of random weights, of which the first and
the last change most.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tasks.core.cka import angular_distance, linear_cka
from tasks.core.clustering import adjacent_clusters, similar_clusters
from tasks.core.plan.by_similarity import drop_iteratively
from tasks.core.plan.layout import HARMONIZERS, LINEAR, REPEATING, Plan
from tasks.core.plan.registry import STRATEGIES, Strategy, make_plan
from tasks.core.plan.spans import runs_up_to
from tasks.core.stand_ins.least_squares import ALPHAS, Moments, error, solve
from tasks.reports.style import BLUE, INK, ORANGE, figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_BLOCKS, NUM_KEPT, NUM_TUNED = 24, 12, 4
NUM_ROWS, WIDTH = 256, 64
# Of `fixed`: what CRaSh publishes for OPT-1.3B on ARC-easy.
KEPT, TUNED = (0, 1, 2, 3, 5, 9, 12, 15, 18, 20, 22, 23), (0, 5, 18, 23)
COLOURS = {"tuned": ORANGE, "kept": BLUE, "shared": "#A9CCE3", "linear": "#B9DFC4", "harmonized": "#D9C2E9"}
COLOURS |= {"removed": "#E4E4E4"}
LEGEND = {
    "tuned": "tuned",
    "kept": "kept, frozen",
    "shared": "replaced by the nearest kept block",
    "linear": "by a linear map",
    "harmonized": "by a harmonizer",
    "removed": "removed",
}


class MadeUpModel:
    """x + gain * tanh(W x), 24 times."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(NUM_ROWS, WIDTH, generator=generator)
        self.weights = torch.randn(NUM_BLOCKS, WIDTH, WIDTH, generator=generator) / math.sqrt(WIDTH)
        depths = torch.linspace(0, 1, NUM_BLOCKS)
        self.gains = 0.25 + 0.6 * torch.exp(-6 * depths) + 0.3 * torch.exp(-8 * (1 - depths))
        self.gains *= 0.2 + 1.6 * torch.rand(NUM_BLOCKS, generator=generator)

    def block(self, index: int, state: Tensor) -> Tensor:
        """[rows, width] to the same."""
        return state + self.gains[index] * torch.tanh(state @ self.weights[index])

    def states(self, blocks: list[int]) -> Tensor:
        """[len(blocks) + 1, rows, width]: the input, and the output of each of these blocks, run in this order."""
        states = [self.inputs]
        for index in blocks:
            states.append(self.block(index, states[-1]))
        return torch.stack(states)


def evidence() -> dict[str, Any]:
    """What the made-up model gives to each kind of strategy."""
    model = MadeUpModel()
    states = model.states(list(range(NUM_BLOCKS)))
    alone = torch.stack([model.block(index, model.inputs) for index in range(NUM_BLOCKS)])
    cosines = torch.nn.functional.cosine_similarity(states[:-1], states[1:], dim=-1)

    def adjacent(left: list[int]) -> list[float]:
        return linear_cka(model.states(left)[1:]).diagonal(1).tolist()

    return {
        "num_blocks": NUM_BLOCKS,
        "clusters": adjacent_clusters(linear_cka(states[1:]), NUM_KEPT),
        "single_clusters": similar_clusters(linear_cka(alone), NUM_KEPT),
        "block_influence": (1 - cosines).mean(dim=1),
        "angular_distance": angular_distance(states),
        "dropped": drop_iteratively(NUM_BLOCKS, NUM_KEPT, adjacent),
        "stand_in_errors": stand_in_errors(states),
        "block_scores": block_scores(model, states[-1]),
    }


def block_scores(model: MadeUpModel, output: Tensor) -> list[float]:
    """Turn of the output [rows, width] without each block, in the place of trained scores."""
    scores = []
    for left_out in range(NUM_BLOCKS):
        without = model.states([block for block in range(NUM_BLOCKS) if block != left_out])[-1]
        scores.append(1 - float(torch.nn.functional.cosine_similarity(without, output, dim=-1).mean()))
    return scores


def stand_in_errors(states: Tensor) -> list[list[float]]:
    """Errors of the linear stand-ins of all runs that a plan may remove. states: [N + 1, rows, width]."""
    runs, moments = runs_up_to(NUM_BLOCKS, NUM_BLOCKS - NUM_KEPT), Moments()
    added = {block: states[block + 1] - states[block] for block in range(NUM_BLOCKS)}
    moments.add(added, {block: states[block + 1] for block in range(NUM_BLOCKS)}, runs)
    errors = [[math.inf] * NUM_BLOCKS for _ in range(NUM_BLOCKS)]
    for first, last in runs:
        errors[first][last] = error(moments, (first, last), solve(moments, (first, last), ALPHAS[0]))
    return errors


def plans() -> dict[str, Plan]:
    """The plan of every strategy, placed and shared as it is by default."""
    found = evidence()
    options = {"num_blocks": NUM_BLOCKS, "num_kept": NUM_KEPT, "num_tuned": NUM_TUNED, "deviation": 0.3, "seed": 0}
    made = {}
    for name, strategy in STRATEGIES.items():
        fixed = {"kept": KEPT, "tuned": TUNED} if name == "fixed" else {}
        made[name] = make_plan(name, found[strategy.needs], {**options, **fixed, "share": strategy.share})
    return made


def draw(made: Mapping[str, Plan], path: Path) -> None:
    """A row for each strategy, a column for each block."""
    picture, axes = figure(15.0, 0.42 * len(made) + 1.6)
    axes.axis("off")
    for row, (name, plan) in enumerate(made.items()):
        for index in range(plan.num_blocks):
            _cell(axes, index, -row, _kind(plan, index), str(index) if index in plan.kept else "")
        axes.text(-0.9, -row, name, ha="right", va="center", fontsize=11, fontweight="bold", color=INK)
        axes.text(NUM_BLOCKS - 0.2, -row, _words(STRATEGIES[name]), va="center", fontsize=9.5, color="#444444")
    for place, (kind, words) in enumerate(LEGEND.items()):
        left = (0, 3.0, 7.6, 17.6, 23.0, 28.6)[place]
        _cell(axes, left, 1.25, kind, "")
        axes.text(left + 0.7, 1.25, words, va="center", fontsize=10, color=INK)
    below = f"{NUM_BLOCKS} blocks, {NUM_KEPT} kept, {NUM_TUNED} tuned.   * looks at the model: here a made-up one"
    axes.text(-0.5, -len(made) - 0.1, below, va="center", fontsize=10, style="italic", color="#444444")
    axes.set(xlim=(-6.2, NUM_BLOCKS + 15.5), ylim=(-len(made) - 0.6, 1.9))
    save(picture, path)


def _kind(plan: Plan, index: int) -> str:
    if index in plan.tuned:
        return "tuned"
    if index in plan.kept:
        return "kept"
    beside = {LINEAR: "linear", HARMONIZERS: "harmonized", **dict.fromkeys(REPEATING, "shared")}
    return beside.get(plan.share or "", "removed")


def _words(strategy: Strategy) -> str:
    return strategy.line + (" *" if strategy.needs != "num_blocks" else "")


def _cell(axes: "Axes", column: float, row: float, kind: str, text: str) -> None:
    axes.barh(row, 0.9, height=0.82, left=column - 0.45, color=COLOURS[kind])
    axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color="white" if kind == "kept" else INK)


if __name__ == "__main__":
    draw(plans(), Path(sys.argv[1]))
