"""The answer of a person to tuned blocks: on the terminal, or on the page of a flow run that is paused for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Literal

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.exchange.admission import Answered
from tasks.core.errors import EnvironmentFault

# Shows the table to a person and returns the answer; None where nobody could be asked.
Ask = Callable[[Sequence[Answered], str], bool | None]
PATIENCE = timedelta(days=7)
POLL_SECONDS = 5


class Decision(RunInput):
    """The form on the page of a paused flow run."""

    decision: Literal["plug in", "decline"] = Field(
        description="Plug in: the full model is written with these blocks. Decline: the emulator can be answered again."
    )


def ask_on_page(answers: Sequence[Answered], table: str) -> bool:
    """Pause the flow run until a person has filled in the form on its page.

    Raises:
        EnvironmentFault: when nobody has within `PATIENCE`.
    """
    senders = ", ".join(each.manifest.sender.name for each in answers)
    form = Decision.with_initial_data(description=f"## Tuned blocks from {senders}\n\n{table}")
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=int(PATIENCE.total_seconds()), poll_interval=POLL_SECONDS)
    except FlowPauseTimeout:
        raise EnvironmentFault(
            f"nobody accepted or declined the tuned blocks from {senders} within {PATIENCE.days} days; nothing was"
            " changed: run it again, and answer on the page of the run"
        ) from None
    assert answer is not None, "the pause has a form"
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
