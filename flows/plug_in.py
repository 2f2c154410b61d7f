"""The owner of the model takes tuned blocks back: verify, prepare and score them, and plug them in once accepted.

`flows/exchange/stages.py` has the stages. Model, task and the number format are those of `crash emulate`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from prefect import flow

from flows.crash import RUNNER
from flows.exchange.admission import Answered, accept, decline, declining, open_answers
from flows.exchange.facts import answer_facts, merged_facts
from flows.exchange.stages import plug_in_stages
from flows.running.pass_limits import scored
from flows.running.run import started
from flows.running.show import show_party
from tasks.artifacts.examined import examined
from tasks.artifacts.party_report import PARTY_FILE
from tasks.artifacts.tables import read_table
from tasks.core.merging.method import Merging
from tasks.parties.party_report import party_report
from tasks.store.artifacts import Ref

# Shows the table to a person and returns the answer; None where nobody could be asked.
Ask = Callable[[Sequence[Answered], str], bool | None]


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    return f"{' + '.join(Path(each).name for each in flow_run.parameters['bundles'])} · plug in"


@flow(name="plug-in", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False, validate_parameters=False)
def plug_in_returned(
    home: str, bundles: list[str], out: str, ask: Ask, merging: Merging | None = None
) -> tuple[Ref, bool | None]:
    """Verify tuned blocks, score the full model with them, and write it where a person accepts.

    home: of the owner of the model; bundles: folders that came back; out: folder of the plugged model, which must not
    exist; merging: of several bundles. Returns the report, and the person's answer.
    """
    answers = open_answers([Path(each) for each in bundles], Path(home))
    with started(answers[0].settings, "plug-in", show_party, limits=scored) as run:
        plugged, changes, scores = plug_in_stages(run, [each.bundle for each in answers], merging)
        made, store = run.result(plugged), run.runtime.open_store()
        senders = ", ".join(each.manifest.sender.name for each in answers)
        title = f"{run.facts['model']} with tuned blocks from {senders}"
        found = []
        # The last changes, where bundles are merged, are those of the merge.
        for answered, change in zip(answers, changes, strict=False):
            with declining(answered):
                found.append(examined(run.result(change)))
        if merging is None:
            facts = answer_facts(answers[0].asked, answers[0].manifest, found[0])
        else:
            sent = [(each.asked, each.manifest) for each in answers]
            facts = merged_facts(sent, found, examined(run.result(changes[-1])), merging)
        report = run.finish(run(party_report, title=title, scores=scores, facts=facts))
        decision = ask(answers, read_table(store.open(report)))
        if decision:
            accept(answers, store, made, Path(out), PARTY_FILE.read(store.open(report)))
        elif decision is not None:
            decline(answers)
        return report, decision
