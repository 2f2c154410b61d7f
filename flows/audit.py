"""The model owner measures what an emulator would give away, before it is given away.

`flows/exchange/auditing.py` has the stages. Nothing is sealed, and no ledger is written.
"""

from pathlib import Path

from prefect import flow

from flows.crash import RUNNER
from flows.exchange.auditing import Hidden, audit_stages, hidden_at
from flows.exchange.stages import plan_of
from flows.method import emulator_of, replacements_of
from flows.running.pass_limits import audit_limits
from flows.running.run import Run, run_name, started
from flows.running.show import show_audit
from flows.searches.candidates import sizes_of
from flows.settings.kinds import AuditSettings
from tasks.artifacts.plan import read_plan
from tasks.store.artifacts import Ref


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    return audit_name(AuditSettings.model_validate(flow_run.parameters["settings"]))


@flow(name="audit", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def audit(settings: AuditSettings) -> Ref:
    """Fill in the blocks that emulators hide, and report how much of the full model comes back.

    The same is done for runs of as many blocks at the bottom, in the middle and at the top.
    """
    with started(settings, "audit", show_audit, audit_name(settings), audit_limits) as run:
        settings.require_hidden(run.model.num_blocks)
        tasks = {run.task.name: run.task, **run.held_out}
        emulators = [_emulator(run, strategy) for strategy in settings.strategy]
        num_hidden = run.model.num_blocks - min(len(each.known) for each in emulators)
        runs = hidden_at(run, num_hidden)
        return run.finish(audit_stages(run, emulators, runs, tasks, sizes_of(run.model), _vocabulary(run)))


def audit_name(settings: AuditSettings) -> str:
    """Return the audit's name in both UIs."""
    return f"audit · {run_name(settings)}"


def _emulator(run: Run[AuditSettings], strategy: str) -> Hidden:
    """Make the emulator of a strategy as it would be given away, compressed and distilled where the settings say so."""
    plan = run.result(plan_of(run, strategy))
    emulator = emulator_of(run, strategy, plan, replacements_of(run, strategy, plan))
    return Hidden(strategy, read_plan(run.runtime.open_store().open(plan)).kept, emulator)


def _vocabulary(run: Run[AuditSettings]) -> int:
    """Return the number of tokens among which the model predicts."""
    from tasks.core.blocks.locate_blocks import text_config
    from tasks.models.folder import load_config

    return int(text_config(load_config(Path(run.model.path))).vocab_size)
