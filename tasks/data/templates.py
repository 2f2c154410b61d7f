"""Check which wording a task may be trained in: lm-eval's own, or the published one (`template = "reference"`).

The reference template of an lm-eval task is its lm-eval prompt, directly followed by the answer: the published code
puts no delimiter between the two, and tokenises them apart. Nothing else is known here about the published wordings, so
the prompt is lm-eval's. This has two effects that the default does not have:

- copa: the two blanks before the answer become one (its choices begin with a blank);
- openbookqa, hellaswag, race, storycloze: no blank separates the last word of the prompt from the first of the answer.

Scoring is lm-eval's in either case. With `template = "chat"`, training and scoring have lm-eval's prompts as turns of a
chat (`tasks.data.chat`).
"""

from tasks.core.errors import InputError
from tasks.data.instructions import TEMPLATES

CHAT = "chat"
# lm-eval's name of each task that the two projects trained on: their name. They call instruction rows `alpaca`.
PUBLISHED = {
    "arc_challenge": "arc_challenge",
    "arc_easy": "arc_easy",
    "boolq": "boolq",
    "copa": "copa",
    "hellaswag": "hellaswag",
    "openbookqa": "openbookqa",
    "piqa": "piqa",
    "race": "race",
    "sciq": "sciq",
    "storycloze_2016": "story_cloze",
    "storycloze_2018": "story_cloze",
    "triviaqa": "trivia_qa",
    "webqs": "web_questions",
}


def check_template(kind: str, template: str, name: str) -> None:
    """Check that a template exists and that this task has it.

    Raises:
        InputError: when the template is unknown or no published wording of the task is; lists the choices.
    """
    if template not in TEMPLATES:
        raise InputError(f"task.template = {template!r}: choose one of {', '.join(TEMPLATES)}")
    if template == "default" or kind == "instructions":
        return
    if template == CHAT and kind == "lm_eval":
        return
    if kind == "text":
        raise InputError(f"task.template = {template!r}: plain text has no prompt, and so no wording but its own")
    if name not in PUBLISHED:
        raise InputError(
            f"task.template = {template!r}: no published wording of task {name!r} is known. It is known of"
            f' {", ".join(PUBLISHED)}, and of instruction rows (task.kind = "instructions")'
        )


def lm_eval_name(published: str) -> str | None:
    """Return the setting for a task's name in the two projects, if lm-eval has another name for it; else None."""
    if published == "alpaca":
        return 'task.kind = "instructions" with a file of instruction, input and output'
    names = [ours for ours, theirs in PUBLISHED.items() if theirs == published != ours]
    return " or ".join(names) or None
