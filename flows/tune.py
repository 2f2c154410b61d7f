"""The data owner tunes an emulator that another party has sealed, and seals the tuned blocks for that party.

Nothing else is needed: no full model, no server, no network. `flows/exchange/stages.py` has the stages.
"""

from pathlib import Path

from prefect import flow

from flows.crash import RUNNER
from flows.exchange.data_owner import open_errand, seal_tuned
from flows.exchange.facts import bundle_facts, exposure_facts, tuning_facts
from flows.exchange.logged_models import log_tuned_blocks
from flows.exchange.stages import exposure_stage, tuning_stages
from flows.running.pass_limits import tune_limits
from flows.running.run import started
from flows.running.show import show_party
from flows.settings.exchange import TuneSettings
from tasks.artifacts.tuning import TUNED_FILE
from tasks.parties.party_report import party_report
from tasks.store.artifacts import Ref


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    settings = TuneSettings.model_validate(flow_run.parameters["settings"])
    return f"{Path(flow_run.parameters['bundle']).name} · {settings.task.name}"


@flow(name="tune", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def tune(settings: TuneSettings, bundle: str, out: str, num_canaries: int = 0) -> Ref:
    """Verify an emulator's bundle, tune the emulator on own rows, and seal what goes back.

    bundle: folder that came from the model owner; out: folder for what goes back, which must not exist;
    num_canaries: random rows among the own rows of a second tuning, which measures what its blocks give away.
    """
    errand = open_errand(Path(bundle), Path(settings.place.home), Path(out))
    with started(errand.settings(settings), "tune", show_party, limits=tune_limits) as run:
        tuning, scores = tuning_stages(run, errand.bundle)
        made, store = run.result(tuning), run.runtime.open_store()
        num_bytes = (store.open(made) / TUNED_FILE).stat().st_size
        facts = tuning_facts(errand.manifest, made.summary, num_bytes, settings.tune.max_change)
        if num_canaries:
            rate = made.summary.get("learning_rate")
            facts |= exposure_facts(run.result(exposure_stage(run, errand.bundle, rate, num_canaries)))
        title = f"{settings.task.name}: an emulator of {errand.manifest.base.name}, tuned"
        facts |= bundle_facts(errand.manifest)
        report = run.finish(run(party_report, title=title, scores=scores, facts=facts))
        manifest = seal_tuned(errand, store, made, settings.tune.tuning_method)
        log_tuned_blocks(run.context.tracking, manifest, errand.out)
        return report
