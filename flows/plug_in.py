"""The owner of the model takes tuned blocks back: verify, prepare and score them, and plug them in once accepted.

`flows/exchange/stages.py` has the stages. Model, task and the number format are those of `crash emulate`.
"""

from collections.abc import Callable
from pathlib import Path

from prefect import flow

from flows.crash import RUNNER
from flows.exchange.admission import Answered, accept, decline, declining, open_answer
from flows.exchange.facts import answer_facts
from flows.exchange.stages import plug_in_stages
from flows.running.pass_limits import scored
from flows.running.run import started
from flows.running.show import show_party
from tasks.artifacts.examined import examined
from tasks.artifacts.party_report import PARTY_FILE
from tasks.artifacts.tables import read_table
from tasks.parties.party_report import party_report
from tasks.store.artifacts import Ref

# Shows the table to a person and returns the answer; None where nobody could be asked.
Ask = Callable[[Answered, str], bool | None]


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    return f"{Path(flow_run.parameters['bundle']).name} · plug in"


@flow(name="plug-in", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False, validate_parameters=False)
def plug_in_returned(home: str, bundle: str, out: str, ask: Ask) -> tuple[Ref, bool | None]:
    """Verify tuned blocks, score the full model with them, and write it where a person accepts.

    home: of the owner of the model; bundle: folder that came back; out: folder of the plugged model, which must not
    exist. Returns the report, and the person's answer.
    """
    answered = open_answer(Path(bundle), Path(home))
    with started(answered.settings, "plug-in", show_party, limits=scored) as run:
        plugged, changes, scores = plug_in_stages(run, answered.bundle)
        made, store = run.result(plugged), run.runtime.open_store()
        title = f"{run.facts['model']} with tuned blocks from {answered.manifest.sender.name}"
        with declining(answered):
            found = examined(run.result(changes))
        facts = answer_facts(answered.asked, answered.manifest, found)
        report = run.finish(run(party_report, title=title, scores=scores, facts=facts))
        decision = ask(answered, read_table(store.open(report)))
        if decision:
            accept(answered, store, made, Path(out), PARTY_FILE.read(store.open(report)))
        elif decision is not None:
            decline(answered)
        return report, decision
