"""The answer of a person to tuned blocks: on the terminal, or on the page of a flow run that is suspended for it.

A suspended run takes no place of its worker. Once a person has answered, a worker runs the flow from its beginning: all
its stages are found in the store.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Literal

from prefect.exceptions import ObjectAlreadyExists
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.exchange.admission import Answered
from tasks.core.errors import EnvironmentFault

# Shows the table to a person and returns the answer; None where nobody could be asked.
Ask = Callable[[Sequence[Answered], str], bool | None]
# The page takes no answer after this time; the deployment can be run again.
APPROVAL_TIMEOUT = timedelta(days=7)


class Decision(RunInput):
    """The form on the page of a suspended flow run."""

    decision: Literal["plug in", "decline"] = Field(
        description="Plug in: the full model is written with these blocks. Decline: the emulator can be answered again."
    )


def ask_on_page(answers: Sequence[Answered], table: str) -> bool:
    """Suspend the flow run until a person has filled in the form on its page; return the answer in the run after it.

    The answer counts for the bundles that were shown: others in their folders suspend the run again.

    Raises:
        EnvironmentFault: when this run failed after an answer, which Prefect keeps and does not ask for again.
    """
    senders = ", ".join(each.manifest.sender.name for each in answers)
    form = Decision.with_initial_data(description=f"## Tuned blocks from {senders}\n\n{table}")
    shown = hashlib.sha256(" ".join(each.opened.digest for each in answers).encode()).hexdigest()
    try:
        answer = suspend_flow_run(
            wait_for_input=form, timeout=int(APPROVAL_TIMEOUT.total_seconds()), key=f"decision-{shown[:32]}"
        )
    except ObjectAlreadyExists:
        raise EnvironmentFault(
            "this run was answered and failed after it; run the deployment plug-in/run again with the same parameters"
        ) from None
    assert answer is not None, "the form has to be filled in"
    return answer.decision == "plug in"


_ask: ContextVar[Ask] = ContextVar("ask", default=ask_on_page)


@contextmanager
def asking(ask: Ask) -> Iterator[None]:
    """Ask in another way than on the page within the context."""
    token = _ask.set(ask)
    try:
        yield
    finally:
        _ask.reset(token)


def decide(answers: Sequence[Answered], table: str) -> bool | None:
    """Ask a person, in the way of the context; None where nobody could be asked."""
    return _ask.get()(answers, table)
