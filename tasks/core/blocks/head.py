"""The language-model head: its tensors, and a copy of its own where it is tied to the embeddings."""

from typing import Any

from torch import nn

from tasks.core.blocks.anatomy import text_config
from tasks.core.errors import InputError

HEAD = "lm_head"


def get_head(model: Any) -> nn.Module:
    """The module that makes logits. InputError for a model without one."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise InputError(f"tune.lm_head: {type(model).__name__} has no language-model head that can be trained alone")
    return head


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """`"lm_head.{parameter}"` to parameter."""
    return {f"{HEAD}.{name}": parameter for name, parameter in get_head(model).named_parameters()}


def head_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """`"lm_head.{parameter}"` to shape."""
    return {name: tuple(parameter.shape) for name, parameter in head_parameters(model).items()}


def untie_head(model: Any) -> None:
    """Give the head tensors of its own, in place, and say so in the config, so that a saved model stays as it is."""
    head = get_head(model)
    for name, parameter in list(head.named_parameters()):
        path, _, leaf = name.rpartition(".")
        setattr(head.get_submodule(path), leaf, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    for config in {id(config): config for config in (model.config, text_config(model.config))}.values():
        config.tie_word_embeddings = False
