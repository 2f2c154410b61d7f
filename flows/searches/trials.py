"""The trials of a search: which candidates go on, and which are left out and why."""

import logging
from typing import TYPE_CHECKING, Any

from flows.running.base_run import BaseRun
from flows.searches.candidates import Candidate, snippet, too_much
from flows.settings.kinds import SearchSettings
from flows.settings.tables import Search
from tasks.artifacts.plan import read_plan
from tasks.artifacts.proxies import proxies_summary
from tasks.core.errors import DivergedError, InputError
from tasks.core.evaluation.ranking import best_by_proxies
from tasks.core.plan.layout import LINEAR
from tasks.store.artifacts import Ref, Store

if TYPE_CHECKING:
    from tasks.core.costs.sizes import Sizes

logger = logging.getLogger(__name__)
# Errors that may concern one plan only; a full disk or a signal ends the search.
OWN_FAULTS = (DivergedError, InputError)


class Trial:
    """A candidate with its results (plan, proxies, emulator, validation losses); reason: why it was left out."""

    def __init__(self, candidate: Candidate, run: BaseRun[SearchSettings]) -> None:
        self.candidate = candidate
        self.name = candidate.name
        self.disclosed = candidate.disclosed
        self.reason = candidate.reason
        self.run = run.changed(candidate.settings) if candidate.settings else run
        self.found: dict[str, Any] = {}

    def settle(self) -> None:
        """Wait for its stages; leave the trial out on an error that concerns only this plan."""
        if not self.found:
            return
        try:
            self.run.wait()
        except OWN_FAULTS as error:
            self.leave_out(str(error))
            logger.error("%s is left out: %s", self.name, error)

    def leave_out(self, reason: str) -> None:
        """Leave the trial out, and drop its results."""
        self.reason, self.found = reason, {}

    def described(self) -> dict[str, Any]:
        """Return the facts and results for the table and the picture."""
        facts = {"name": self.name, **self.candidate.values, "disclosed": self.disclosed, "reason": self.reason}
        settings = self.candidate.settings
        return {**facts, "snippet": snippet(settings) if settings else None, **self.found}


def take_plans(store: Store, trials: list[Trial], sizes: "Sizes", limit: float) -> None:
    """Wait for the plans; leave out those that disclose too much after all, or are equal to another plan."""
    first: dict[tuple, str] = {}
    for trial in trials:
        trial.settle()
        if trial.reason:
            continue
        ref: Ref = trial.found["plan"].result()
        plan = read_plan(store.open(ref))
        # Blocks may differ in size, so that only the plan determines what is disclosed.
        trial.disclosed = sizes.disclosed(plan.kept)
        same = first.setdefault((plan.kept, plan.tuned, plan.layout, plan.share == LINEAR), trial.name)
        if same != trial.name:
            trial.leave_out(f"the same plan as {same}")
        elif trial.disclosed > limit:
            trial.leave_out(too_much(trial.disclosed, limit))


def picked(trials: list[Trial], search: Search) -> list[Trial]:
    """Return the trials to tune: all that are left, or the `num_measured` that the proxies rank best."""
    if search.by == "estimated":
        for trial in trials:
            trial.settle()
    left = [trial for trial in trials if not trial.reason]
    if search.by == "measured" or not left:
        return left
    summaries = [proxies_summary(trial.found["proxies"].result()) for trial in left]
    return [left[place] for place in best_by_proxies(summaries)[: search.num_measured]]


def require_one(tried: list[Trial]) -> None:
    """Check that at least one plan was measured.

    Raises:
        InputError: when none was, with the reason of the first.
    """
    if all(trial.reason for trial in tried):
        why = f"; the first of {len(tried)}, {tried[0].name}: {tried[0].reason}" if tried else ""
        raise InputError(f"no plan of the search could be measured{why}")
