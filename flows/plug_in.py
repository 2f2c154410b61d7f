"""The model owner takes tuned blocks back: verify, prepare and score them, and plug them in once accepted.

`flows/exchange/stages.py` has the stages. Model, task and the number format are those of `crash emulate`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.crash import RUNNER
from flows.exchange.admission import (
    Answered,
    accept,
    decline,
    declining,
    open_answers,
    plugged_facts,
    require_place,
)
from flows.exchange.approval import decide
from flows.exchange.facts import answer_facts, merged_facts, moved_facts
from flows.exchange.logged_models import log_plugged
from flows.exchange.stages import own_changes, plug_in_stages
from flows.running.pass_limits import plug_in_limits
from flows.running.run import Run, started
from flows.running.show import show_party
from tasks.artifacts.examined import examined
from tasks.artifacts.party_report import PARTY_FILE
from tasks.artifacts.tables import read_table
from tasks.core.errors import CrashError
from tasks.core.merging.method import Merging
from tasks.parties.party_report import party_report
from tasks.store.artifacts import Ref
from tasks.store.home import default_home


def _flow_run_name() -> str:
    """Return the name of the flow run that is about to start."""
    from prefect.runtime import flow_run

    return f"{' + '.join(Path(each).name for each in flow_run.parameters['bundles'])} · plug in"


@flow(name="plug-in", flow_run_name=_flow_run_name, task_runner=RUNNER, persist_result=False)
def plug_in(
    bundles: list[str], out: str, home: str | None = None, merging: Merging | None = None
) -> tuple[Ref, bool | None]:
    """Verify tuned blocks, score the full model with them, and write it where a person accepts.

    bundles: folders that came back; out: folder of the plugged model, which must not exist; home: of the owner of the
    model, by default that of the worker; merging: how several bundles are merged. Returns the report, and the person's
    answer: on the page of the flow run, unless the context asks in another way (`approval.asking`).
    """
    answers = open_answers([Path(each) for each in bundles], Path(home or default_home()))
    require_place(answers, Path(out))
    with started(answers[0].settings, "plug-in", show_party, limits=plug_in_limits) as run:
        plugged, changes, scores = plug_in_stages(run, [each.bundle for each in answers], merging)
        own = own_changes(run.changed(run.settings)) if run.settings.exchange.reference else None
        # First, as an answer that cannot be used is declined.
        facts = _facts(run, answers, changes, merging)
        if own is not None:
            facts |= _own_facts(run, own)
        made, store = run.result(plugged), run.runtime.open_store()
        senders = ", ".join(each.manifest.sender.name for each in answers)
        title = f"{run.facts['model']} with tuned blocks from {senders}"
        report = run.finish(run(party_report, title=title, scores=scores, facts=facts))
    # Behind the run, whose records are closed while it waits.
    decision = decide(answers, read_table(store.open(report)))
    if decision:
        accept(answers, store, made, Path(out), PARTY_FILE.read(store.open(report)))
        log_plugged(run, plugged_facts([each.manifest for each in answers]), Path(out))
    elif decision is not None:
        decline(answers)
    return report, decision


def _own_facts(run: Run, own: Any) -> dict[str, Any]:
    """Return how far blocks move in an own tuning, or why it failed: the admission does not depend on it."""
    try:
        return moved_facts("in an own tuning, ", examined(run.result(own)))
    except CrashError as error:
        return {"own tuning": f"failed: {' '.join(str(error).split())}"}


def _facts(run: Run, answers: Sequence[Answered], changes: Sequence[Any], merging: Merging | None) -> dict[str, Any]:
    """Return what a person is shown of the answers. changes: of each, and where they are merged, of the merge.

    Raises:
        RefusedError: when blocks of one are such as no tuning gives; it is declined.
    """
    found = []
    for answered, change in zip(answers, changes, strict=False):
        with declining(answered):
            found.append(examined(run.result(change)))
    if merging is None:
        return answer_facts(answers[0].asked, answers[0].manifest, found[0])
    sent = [(each.asked, each.manifest) for each in answers]
    return merged_facts(sent, found, examined(run.result(changes[-1])), merging)
