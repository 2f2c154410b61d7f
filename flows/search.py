"""Search for the best plan within a limit of disclosure, by loss on the validation rows of a task.

`flows/searches/stages.py` has its stages in their order. A repeated search continues, since finished stages are found
in the store. Nothing here reads the scored split.
"""

from functools import partial

from prefect import flow

from flows.crash import RUNNER
from flows.running.pass_limits import search_limits
from flows.running.run import run_name, started
from flows.running.show import show_search
from flows.searches.candidates import combinations
from flows.searches.stages import submit_stages
from flows.searches.trials import picked, take_plans
from flows.settings.kinds import SearchSettings
from tasks.store.artifacts import Ref


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    return search_name(SearchSettings.model_validate(flow_run.parameters["settings"]))


@flow(name="search", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def search(settings: SearchSettings) -> Ref:
    """Tune and plug in all plans within the limit, or those that proxies rank best; choose one by validation loss."""
    with started(settings, "search", show_search, search_name(settings), search_limits) as run:
        return run.finish(submit_stages(run, partial(take_plans, run.runtime.open_store()), picked))


def search_name(settings: SearchSettings) -> str:
    """Return the search's name in both UIs."""
    strategies = tuple(dict.fromkeys(values["strategy"] for values in combinations(settings)))
    named = run_name(settings.model_copy(update={"strategy": strategies}))
    return f"search · {named} · at most {settings.search.max_disclosed:.0%}"
