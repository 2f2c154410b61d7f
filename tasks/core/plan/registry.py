"""The table of all strategies, with their plan functions, evidence, one-line descriptions and sources.

The command line, the settings, the reference and the stages all read this table.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.core.errors import InputError
from tasks.core.plan.by_similarity import (
    angular_plan,
    block_influence_plan,
    drop_iteratively,
    iterative_drop_plan,
    scaleot_plan,
    single_plan,
)
from tasks.core.plan.layout import Plan, crash_plan, fixed_plan, uniform_plan
from tasks.core.plan.placement import check_budget, tuned_before_selection
from tasks.core.plan.sampled import inverse_normal_plan, left_normal_plan, normal_plan, random_plan, right_normal_plan
from tasks.core.plan.spaced import reverse_plan, uniform_deviation_plan, uniform_spread_plan
from tasks.core.plan.spans import spans_plan

# The evidence from which a plan is made, the first argument of its function: the number of blocks alone; clusters of
# adjacent blocks, block influence or angular distance, all three measured on the support set's states; clusters by the
# states of each block when it runs alone; the order in which blocks were dropped, with a new run after each drop; the
# errors of the linear stand-ins of all runs of blocks; or scores that are trained together with harmonizers.
Evidence = Literal[
    "num_blocks",
    "clusters",
    "block_influence",
    "angular_distance",
    "single_clusters",
    "dropped",
    "stand_in_errors",
    "block_scores",
]


def _arguments(plan: Callable[..., Plan]) -> tuple[str, ...]:
    """Names of the arguments of a plan's function after the evidence."""
    return tuple(inspect.signature(plan).parameters)[1:]


@dataclass(frozen=True)
class Strategy:
    """A strategy. needs: the evidence for its plan. share: the default of plan.share. line: a one-line description."""

    name: str
    plan: Callable[..., Plan]
    needs: Evidence
    share: str | None
    line: str
    source: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all options on which the plan depends besides the evidence."""
        names = _arguments(self.plan)
        # The clusters depend on the budget and the linkage.
        return (*names, "num_kept", "linkage") if self.clusters else names

    @property
    def clusters(self) -> bool:
        """Whether the evidence is a list of clusters, which are made from a similarity matrix."""
        return self.needs in ("clusters", "single_clusters")

    @property
    def placement(self) -> str | None:
        """Default placement of the tuned blocks; None when the strategy has no placement."""
        parameter = inspect.signature(self.plan).parameters.get("placement")
        return parameter.default if parameter else None

    @property
    def is_sampled(self) -> bool:
        """Whether the strategy draws blocks at random, from a seed."""
        return "seed" in self.options


CRASH, OFT = "CRaSh, arXiv 2310.15477", "Offsite-Tuning, arXiv 2302.04870"
BOTH = "published code of CRaSh and Offsite-Tuning"

# CRaSh publishes its strategies with sharing. A block that runs again where nothing was trained for it takes a real
# model to chance (docs/contributing/log.md), so none shares by default.

_ALL = (
    Strategy("crash", crash_plan, "clusters", None, "the centre of each cluster of adjacent, similar blocks", CRASH),
    Strategy("uniform", uniform_plan, "num_blocks", None, "evenly spaced between the tuned ends", OFT),
    Strategy(
        "uniform_spread",
        uniform_spread_plan,
        "num_blocks",
        None,
        "evenly spaced over the whole model, evenly placed ones tuned",
        f"{CRASH}, Table 1",
    ),
    Strategy(
        "uniform_deviation",
        uniform_deviation_plan,
        "num_blocks",
        None,
        "evenly spaced without a first (plan.deviation > 0) or last (< 0) share",
        BOTH,
    ),
    Strategy("normal", normal_plan, "num_blocks", None, "drawn around the middle, Gaussian weights", BOTH),
    Strategy("left_normal", left_normal_plan, "num_blocks", None, "drawn towards the first blocks", BOTH),
    Strategy("right_normal", right_normal_plan, "num_blocks", None, "drawn towards the last blocks", BOTH),
    Strategy("inverse_normal", inverse_normal_plan, "num_blocks", None, "drawn away from the middle", BOTH),
    Strategy("random", random_plan, "num_blocks", None, "drawn, every block alike", "baseline"),
    Strategy("reverse", reverse_plan, "num_blocks", None, "the first blocks: the last are dropped", "arXiv 2411.15558"),
    Strategy(
        "block_influence",
        block_influence_plan,
        "block_influence",
        None,
        "those that change their input most",
        "ShortGPT, arXiv 2403.03853",
    ),
    Strategy(
        "angular",
        angular_plan,
        "angular_distance",
        None,
        "all but the one run of blocks that turns its input least",
        "Gromov et al., arXiv 2403.17887",
    ),
    Strategy(
        "iterative_drop",
        iterative_drop_plan,
        "dropped",
        None,
        "drops the block most like the one below it, runs the rest again, and so on",
        CRASH,
    ),
    Strategy(
        "single",
        single_plan,
        "single_clusters",
        None,
        "the centre of each cluster of blocks that do alike to the embeddings, adjacent or not",
        CRASH,
    ),
    Strategy(
        "spans",
        spans_plan,
        "stand_in_errors",
        "linear",
        "all but the runs of blocks that linear maps replace best",
        "this project",
    ),
    Strategy(
        "scaleot",
        scaleot_plan,
        "block_scores",
        "harmonizers",
        "those with the highest scores, trained together with networks that replace the others",
        "ScaleOT, arXiv 2412.09812",
    ),
    Strategy("fixed", fixed_plan, "num_blocks", None, "exactly plan.kept and plan.tuned", "your own choice"),
)
STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in _ALL}


def needed(name: str) -> Evidence:
    """Evidence from which the plan of a strategy is made.

    Raises:
        InputError: when the name is unknown.
    """
    if name not in STRATEGIES:
        raise InputError(f"strategy = {name!r}; choose from {', '.join(STRATEGIES)}")
    return STRATEGIES[name].needs


def make_plan(name: str, evidence: Any, options: Mapping[str, Any]) -> Plan:
    """Make the plan of a strategy from its evidence, ignoring options that it does not have or that are None.

    The option share is passed on even when it is None, which means no sharing.

    Raises:
        InputError: when the name is unknown or the budget is impossible.
    """
    needed(name)
    strategy = STRATEGIES[name]
    there = {key for key, value in options.items() if value is not None or key == "share"}
    return strategy.plan(evidence, **{key: options[key] for key in there & {*_arguments(strategy.plan)}})


def check_plan_possible(name: str, num_blocks: int, options: Mapping[str, Any]) -> Plan:
    """Make a plan for the budget and placement from placeholder evidence, to check that they are possible.

    Raises:
        InputError: when the plan would be impossible with any evidence.
    """
    needs, num_kept = STRATEGIES[name].needs, options.get("num_kept") or 0
    if STRATEGIES[name].clusters:
        check_budget(num_blocks, num_kept, 1)
        if options.get("placement") == "explicit":
            # The centres are not known yet, but their number is.
            tuned = tuned_before_selection(num_blocks, 0, "explicit", options["tuned"])
            check_budget(num_blocks, num_kept, len(tuned))
            return fixed_plan(num_blocks, tuned, tuned)
        made_up: Any = [*([block] for block in range(num_kept - 1)), list(range(num_kept - 1, num_blocks))]
    elif needs == "dropped":
        made_up = drop_iteratively(num_blocks, num_kept, lambda left: [0.0] * len(left), _ahead(num_blocks, options))
    else:
        flat = [0.0] * (num_blocks + 1)
        square = [flat] * len(flat)
        by_block = dict.fromkeys(("block_influence", "block_scores"), flat[1:])
        zeros = {**by_block, "angular_distance": square, "stand_in_errors": [flat[1:]] * num_blocks}
        made_up = zeros.get(needs, num_blocks)
    return make_plan(name, made_up, {**options, "num_blocks": num_blocks})


def _ahead(num_blocks: int, options: Mapping[str, Any]) -> tuple[int, ...]:
    placement = options.get("placement") or STRATEGIES["iterative_drop"].placement or ""
    return tuned_before_selection(num_blocks, options.get("num_tuned") or 0, placement, options.get("tuned") or ())
