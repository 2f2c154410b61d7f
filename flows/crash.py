"""The whole method for one model and one task: build emulators, tune them, plug the tuned blocks in, and score.

`flows/method.py` has its stages in their order.
"""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.method import submit_stages
from flows.running.run import run_name, started
from flows.running.show import show_results
from flows.settings.run import Settings
from tasks.store.artifacts import Ref

# Threads only wait: for parents, for a free core or GPU, or for the process that computes.
WAITING_THREADS = 64


# Typed loosely because Prefect's own annotation does not admit its thread pool.
RUNNER: Any = ThreadPoolTaskRunner(max_workers=WAITING_THREADS)


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    return run_name(Settings.model_validate(flow_run.parameters["settings"]))


@flow(name="crash", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def crash(settings: Settings) -> Ref:
    """Build emulators, tune them, plug the tuned blocks into the full model, and report the five settings' scores."""
    with started(settings, "crash", show_results) as run:
        return run.finish(submit_stages(run))
