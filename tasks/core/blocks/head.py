"""The language-model head: its tensors, and how to untie it from the embeddings."""

from typing import Any

from torch import nn

from tasks.core.blocks.locate_blocks import text_config
from tasks.core.errors import SettingError

HEAD = "lm_head"


def get_head(model: Any) -> nn.Module:
    """Return the module that computes the logits.

    Raises:
        SettingError: when the model has none.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise SettingError(f"`lm_head`: {type(model).__name__} has no language-model head that can be trained alone")
    return head


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Map `"lm_head.{parameter name}"` to the parameter."""
    return {f"{HEAD}.{name}": parameter for name, parameter in get_head(model).named_parameters()}


def head_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Map `"lm_head.{parameter name}"` to the shape of the parameter."""
    return {name: tuple(parameter.shape) for name, parameter in head_parameters(model).items()}


def untie_head(model: Any) -> None:
    """Replace the head's tensors by copies, in place, and set the config so that a saved model stays untied."""
    head = get_head(model)
    for name, parameter in list(head.named_parameters()):
        path, _, leaf = name.rpartition(".")
        setattr(head.get_submodule(path), leaf, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    for config in {id(config): config for config in (model.config, text_config(model.config))}.values():
        config.tie_word_embeddings = False
