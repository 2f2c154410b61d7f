"""Prompts as turns of a chat, in the words of the tokenizer's own template."""

from collections.abc import Sequence
from typing import Any

from tasks.core.errors import InputError
from tasks.data.sources import Chat

Message = dict[str, str]
# Some templates print today's date. Rows are worded alike on every day, with the date that Llama 3's own template falls
# back to. A macro hides the global function of the same name.
FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format | replace('%Y', '2024') | replace('%m', '07') | replace('%d', '26')"
    " | replace('%b', 'Jul') | replace('%B', 'July') }}{% endmacro %}"
)


def render(chat: Chat, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    """Return the turns (`role`, `content`) as text; as lm-eval does, without a system turn where there is none.

    add_generation_prompt: end where the model's turn begins; else the last turn stays open.

    Raises:
        InputError: when the template fails.
    """
    from jinja2 import TemplateError

    try:
        return _rendered(chat, messages, add_generation_prompt)
    except TemplateError as error:
        without = [message for message in messages if message["role"] != "system"]
        if len(without) == len(messages):
            raise InputError(f"the tokenizer's chat template fails: {error}") from error
        return render(chat, without, add_generation_prompt)


def _rendered(chat: Chat, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens: dict[str, Any] = dict(chat.tokens)
    # Annotated as a text there; it is the texts, and the places of what the model generates.
    rendered: Any = render_jinja_template(
        conversations=[list(messages)],
        chat_template=FIXED_DATE + chat.template,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
        **tokens,
    )
    return rendered[0][0]
