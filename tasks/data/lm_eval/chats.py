"""lm-eval's own task with every prompt as a chat, whoever asks it for prompts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


def word_as_chat(task: "ConfigurableTask", render: Callable[..., str]) -> None:
    """Let a task word its requests as lm-eval's command does with --apply_chat_template and --fewshot_as_multiturn.

    render: returns the text of messages, which end where the model's turn begins if `add_generation_prompt`.
    """
    context, construct = task.fewshot_context, task.construct_requests
    chosen: dict[str, Any] = {"apply_chat_template": True, "chat_template": render}

    def in_turns(doc: Any, **given: Any) -> Any:
        return context(doc=doc, **given | chosen | {"fewshot_as_multiturn": True})

    # Attributes of the instance, which override the methods of the class.
    vars(task)["fewshot_context"] = in_turns
    vars(task)["construct_requests"] = lambda **given: construct(**given | chosen)
