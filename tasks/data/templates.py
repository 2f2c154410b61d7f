"""Which wordings a task may be trained in: lm-eval's own, or the published one (`template = "reference"`).

The reference template of an lm-eval task is its lm-eval prompt, directly followed by the answer: the published code
puts no delimiter between the two, and tokenises them apart. Nothing else is known here about the published wordings, so
the words of the prompt stay lm-eval's. Two things follow that the default does not have:

- copa: the two blanks before the answer become one (its choices begin with a blank of their own);
- openbookqa, hellaswag, race, storycloze: the last word of the prompt and the first of the answer are written together.

Scoring is lm-eval's in either case.
"""

from tasks.core.errors import InputError
from tasks.data.instructions import TEMPLATES

# lm-eval's name of each task that the two projects trained on: the name there. Instruction rows are `alpaca` there.
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
    """InputError, with the choices, for a template that does not exist or that this task does not have."""
    if template not in TEMPLATES:
        raise InputError(f"task.template = {template!r}: choose one of {', '.join(TEMPLATES)}")
    if template == "default" or kind == "instructions":
        return
    if kind == "text":
        raise InputError(f"task.template = {template!r}: plain text has no prompt, and so no wording but its own")
    if name not in PUBLISHED:
        raise InputError(
            f"task.template = {template!r}: no published wording of task {name!r} is known. It is known of"
            f' {", ".join(PUBLISHED)}, and of instruction rows (task.kind = "instructions")'
        )


def lm_eval_name(published: str) -> str | None:
    """What to write for the name that a task has in the two projects, where lm-eval calls it something else."""
    if published == "alpaca":
        return 'task.kind = "instructions" with a file of instruction, input and output'
    names = [ours for ours, theirs in PUBLISHED.items() if theirs == published != ours]
    return " or ".join(names) or None
