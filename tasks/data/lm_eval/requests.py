"""The requests that lm-eval makes for one row, and which of them is the right answer."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.core.errors import InputError
from tasks.data.wording import digest_of, mark_of

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask


class Asked(NamedTuple):
    """The requests of one row, and its choices; the choices are empty unless the task is multiple choice."""

    requests: "list[Instance]"
    choices: list[str]

    @property
    def mark(self) -> bytes:
        """The mark of the row, see `tasks.data.wording`."""
        return _mark(self.requests)

    @property
    def compared(self) -> tuple[tuple[str, str], ...]:
        """Every (prompt, choice) whose likelihood lm-eval compares with the others."""
        return tuple(request.args for request in self.requests) if self.choices else ()


def ask(task: "ConfigurableTask", doc: dict[str, Any]) -> Asked:
    """Build all requests of lm-eval for one row."""
    choices = _choices(task, doc) if task.OUTPUT_TYPE == "multiple_choice" else []
    requests = task.construct_requests(doc=doc, ctx=_context(task, doc))
    return Asked(requests if isinstance(requests, list) else [requests], choices)


def answer_of(task: "ConfigurableTask", doc: dict[str, Any], asked: Asked) -> tuple[str | None, str]:
    """Return (prompt, answer) of one row: the arguments of the request that lm-eval counts as right.

    The prompt is None for a document that is scored as a whole.
    """
    arguments = asked.requests[0].args
    if task.OUTPUT_TYPE == "multiple_choice":
        return asked.requests[_gold(task, doc, asked.choices)].args
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return None, arguments[0]
    if task.OUTPUT_TYPE == "generate_until":
        return arguments[0], task.config.target_delimiter + right_answer(task, doc)
    return arguments


def digest_of_requests(task: "ConfigurableTask") -> str:
    """Digest of the rows whose requests lm-eval has built; equal to the digest of the `Asked.mark` of each row."""
    rows: dict[int, list[Instance]] = defaultdict(list)
    for request in sorted(task.instances, key=lambda request: (request.doc_id, request.idx)):
        rows[request.doc_id].append(request)
    return digest_of(_mark(requests) for requests in rows.values())


def _mark(requests: "Sequence[Instance]") -> bytes:
    return mark_of(requests[0].doc, [text for request in requests for text in request.args])


def _context(task: "ConfigurableTask", doc: dict[str, Any]) -> Any:
    """Return the prompt of one row as lm-eval builds it, or a list of prompts where the choices are prompts."""
    try:
        return task.fewshot_context(doc=doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc))
    except AssertionError:  # lm-eval's own error, whose message has the value
        kind = type(task.doc_to_text(doc)).__name__
        raise InputError(f"its prompt (doc_to_text) is a {kind}, expected a text") from None


def _choices(task: "ConfigurableTask", doc: dict[str, Any]) -> list[str]:
    """Return the choices of one row.

    Raises:
        InputError: when they are not a list of texts. lm-eval would split a text into letters, and fail on numbers only
            after scoring.
    """
    choices: Any = task.doc_to_choice(doc)
    if not isinstance(choices, list | tuple):
        raise InputError(f"its choices (doc_to_choice) are a {type(choices).__name__}, expected a list of texts")
    others = [choice for choice in choices if not isinstance(choice, str)]
    if others and not callable(task.config.process_results):
        raise InputError(f"one of its choices (doc_to_choice) is a {type(others[0]).__name__}, expected a text")
    return list(choices)


def _gold(task: "ConfigurableTask", doc: dict[str, Any], choices: list[str]) -> int:
    """Return the index of the right choice, the first one if several are right."""
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    target = _first(target, "no choice is marked as right", "its label is null")
    if isinstance(target, str):
        if target not in choices:
            raise InputError(f"the label is none of the {len(choices)} choices")
        return choices.index(target)
    if not 0 <= int(target) < len(choices):
        raise InputError(
            f"the label is {int(target)}, out of range for {len(choices)} choices (0 to {len(choices) - 1})"
        )
    return int(target)


def _first(target: Any, if_empty: str, if_null: str) -> Any:
    """Return the target, or the first of several.

    Raises:
        InputError: with `if_empty` when the list is empty, with `if_null` when the target is None.
    """
    if isinstance(target, list):
        if not target:
            raise InputError(if_empty)
        target = target[0]
    if target is None:
        raise InputError(if_null)
    return target


def right_answer(task: "ConfigurableTask", doc: dict[str, Any]) -> str:
    """Return the text that a model should write for one row, without the delimiter after the prompt."""
    target = _first(task.doc_to_target(doc), "it has no answer", "its answer is null")
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return str(target)
