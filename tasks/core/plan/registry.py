"""Every way to choose blocks: one line, its source, what it looks at; and its plan.

This table is what the command line, the settings, the reference and the stages go by.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan, crash_plan, fixed_plan, uniform_plan
from tasks.core.plan.measured import (
    angular_plan,
    block_influence_plan,
    drop_iteratively,
    iterative_drop_plan,
    single_plan,
)
from tasks.core.plan.placement import check_budget, tuned_ahead
from tasks.core.plan.sampled import inverse_normal_plan, left_normal_plan, normal_plan, random_plan, right_normal_plan
from tasks.core.plan.spaced import reverse_plan, uniform_deviation_plan, uniform_spread_plan

# What a plan is made from, which is the first argument of its function: the number of blocks alone; clusters of
# adjacent blocks, block influence or angular distance, all three of the support set's states; clusters of the states of
# every block alone; or the order in which blocks were dropped, the model being run anew each time.
Evidence = Literal["num_blocks", "clusters", "block_influence", "angular_distance", "single_clusters", "dropped"]


def _arguments(plan: Callable[..., Plan]) -> tuple[str, ...]:
    """What a plan's function takes behind the evidence."""
    return tuple(inspect.signature(plan).parameters)[1:]


@dataclass(frozen=True)
class Strategy:
    """One way to choose blocks. share: who stands in for removed ones, unless the settings say otherwise."""

    name: str
    plan: Callable[..., Plan]
    needs: Evidence
    share: str | None
    line: str
    source: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all that its plan depends on beside the evidence."""
        names = _arguments(self.plan)
        # Clusters are made for a budget.
        return (*names, "num_kept", "linkage") if self.clusters else names

    @property
    def clusters(self) -> bool:
        """Whether its evidence are clusters, which in turn are made from a matrix of similarity."""
        return self.needs in ("clusters", "single_clusters")

    @property
    def placement(self) -> str | None:
        """How its tuned blocks are placed unless the settings say otherwise; None where they are named anyway."""
        parameter = inspect.signature(self.plan).parameters.get("placement")
        return parameter.default if parameter else None

    @property
    def is_sampled(self) -> bool:
        """Whether it draws blocks at random, by a seed."""
        return "seed" in self.options


CRASH, OFT = "CRaSh, arXiv 2310.15477", "Offsite-Tuning, arXiv 2302.04870"
BOTH = "published code of CRaSh and Offsite-Tuning"

_ALL = (
    Strategy("crash", crash_plan, "clusters", "all", "the centre of each cluster of adjacent, similar blocks", CRASH),
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
        "all",
        "drops the block most like the one below it, runs the rest again, and so on",
        CRASH,
    ),
    Strategy(
        "single",
        single_plan,
        "single_clusters",
        "all",
        "the centre of each cluster of blocks that do alike to the embeddings, adjacent or not",
        CRASH,
    ),
    Strategy("fixed", fixed_plan, "num_blocks", "all", "exactly plan.kept and plan.tuned", "your own choice"),
)
STRATEGIES: dict[str, Strategy] = {strategy.name: strategy for strategy in _ALL}


def needed(name: str) -> Evidence:
    """What the plan of a strategy is made from. InputError for an unknown name."""
    if name not in STRATEGIES:
        raise InputError(f"strategy = {name!r}; choose from {', '.join(STRATEGIES)}")
    return STRATEGIES[name].needs


def make_plan(name: str, evidence: Any, options: Mapping[str, Any]) -> Plan:
    """The plan of a strategy from its evidence; options that it does not know, or that are None, are left out.

    share: None is a choice, not an absence. InputError for an unknown name or an impossible budget.
    """
    needed(name)
    strategy = STRATEGIES[name]
    there = {key for key, value in options.items() if value is not None or key == "share"}
    return strategy.plan(evidence, **{key: options[key] for key in there & {*_arguments(strategy.plan)}})


def rehearse(name: str, num_blocks: int, options: Mapping[str, Any]) -> Plan:
    """A plan of the budget and placement from made-up evidence: InputError exactly where no evidence would do."""
    needs, num_kept = STRATEGIES[name].needs, options.get("num_kept") or 0
    if STRATEGIES[name].clusters:
        check_budget(num_blocks, num_kept, 1)
        if options.get("placement") == "explicit":
            # Which blocks are centres is not known yet; that as many are kept is.
            tuned = tuned_ahead(num_blocks, 0, "explicit", options["tuned"])
            check_budget(num_blocks, num_kept, len(tuned))
            return fixed_plan(num_blocks, tuned, tuned)
        made_up: Any = [*([block] for block in range(num_kept - 1)), list(range(num_kept - 1, num_blocks))]
    elif needs == "dropped":
        made_up = drop_iteratively(num_blocks, num_kept, lambda left: [0.0] * len(left), _ahead(num_blocks, options))
    else:
        flat = [0.0] * (num_blocks + 1)
        made_up = {"block_influence": flat[1:], "angular_distance": [flat] * len(flat)}.get(needs, num_blocks)
    return make_plan(name, made_up, {**options, "num_blocks": num_blocks})


def _ahead(num_blocks: int, options: Mapping[str, Any]) -> tuple[int, ...]:
    placement = options.get("placement") or STRATEGIES["iterative_drop"].placement or ""
    return tuned_ahead(num_blocks, options.get("num_tuned") or 0, placement, options.get("tuned") or ())
