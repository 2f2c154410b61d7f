"""The model owner gives an emulator away: make it, say what it discloses, and seal it for one other party.

`flows/exchange/stages.py` has the stages. Sealing happens behind them, since it is never taken from the store.
"""

from pathlib import Path

from prefect import flow

from flows.crash import RUNNER
from flows.exchange.facts import emulator_facts
from flows.exchange.logged_models import log_emulator
from flows.exchange.owner import check_disclosure, make_gift, seal_emulator
from flows.exchange.stages import emulator_stages, plan_of
from flows.running.pass_limits import emulate_limits
from flows.running.run import run_name, started
from flows.running.show import show_party
from flows.settings.kinds import EmulateSettings
from tasks.artifacts.party_report import PARTY_FILE
from tasks.artifacts.plan import read_plan
from tasks.parties.party_report import party_report
from tasks.store.artifacts import Ref


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    settings = EmulateSettings.model_validate(flow_run.parameters["settings"])
    return f"{run_name(settings)} · to {flow_run.parameters['recipient']}"


@flow(name="emulate", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def emulate(settings: EmulateSettings, recipient: str, out: str, key: str | None = None) -> Ref:
    """Make an emulator, and seal it for a party whose key is trusted here.

    recipient: name of the party; out: folder of the bundle, which must not exist; key: which of several own keys signs.
    """
    strategy = settings.require_one_strategy()
    gift = make_gift(settings, recipient, Path(out), key)
    with started(settings, "emulate", show_party, limits=emulate_limits) as run:
        plan = run.result(plan_of(run, strategy))
        chosen = read_plan(run.runtime.open_store().open(plan))
        disclosure = check_disclosure(run, gift, chosen)
        emulator, scores = emulator_stages(run, strategy, plan)
        title = f"{run.facts['model']}: an emulator for {recipient}"
        facts = emulator_facts(strategy, disclosure, run.model, chosen.tuned)
        report = run.finish(run(party_report, title=title, scores=scores, facts=facts))
        shown = PARTY_FILE.read(run.runtime.open_store().open(report))
        manifest = seal_emulator(run, gift, run.result(emulator), shown)
        log_emulator(run.context.tracking, manifest, gift.out)
        return report
