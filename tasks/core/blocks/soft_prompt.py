"""A soft prompt: trained vectors in front of the embedded tokens of every row (Lester et al. 2021, arXiv 2104.08691).

Its vectors are the embeddings of virtual tokens, whose ids follow those of the vocabulary. Training, scoring, shared
prompts, generation and blocks on disk take these ids as they take others.
Shapes: B rows, T tokens, d width, P virtual tokens, V rows of the embedding matrix.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.blocks.locate_blocks import text_config
from tasks.core.errors import SettingError

NAME = "prompt"
# The attribute under which a model has its soft prompt.
MODULE = "soft_prompt"
# Names of tables in which positions are looked up.
POSITIONS = re.compile("position|wpe")


class SoftPrompt(nn.Module):
    """Embeddings of virtual tokens [P, d] with the ids V .. V + P - 1; hooks on the embeddings of a model use them."""

    def __init__(self, weight: Tensor, first_id: int) -> None:
        super().__init__()
        self.weight, self.first_id = nn.Parameter(weight), first_id
        self._ids: Tensor | None = None

    def before(self, _: nn.Module, args: tuple) -> tuple:
        """Look up token 0 in the place of virtual ones."""
        self._ids = args[0]
        return (self._ids.masked_fill(self._ids >= self.first_id, 0), *args[1:])

    def after(self, _: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """Put the vectors of virtual tokens into the looked-up embeddings [B, T, d]."""
        ids, self._ids = self._ids, None
        assert ids is not None, "the hook in front of the embeddings runs first"
        own = self.weight.to(output)[(ids - self.first_id).clamp_min(0)]
        return torch.where((ids >= self.first_id).unsqueeze(-1), own, output)


def prompt_shapes(model: Any, num_tokens: int) -> dict[str, tuple[int, int]]:
    """Return the shape of the trained tensor, by stored name.

    Raises:
        SettingError: when the family looks up tokens in several tables.
    """
    embeddings = model.get_input_embeddings()
    tables = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module is not embeddings and not POSITIONS.search(name)
    ]
    if tables:
        raise SettingError(
            f'`method` = "prompt", but {text_config(model.config).model_type} looks up tokens in a second table'
            f" ({tables[0]}); choose from blocks, lora, adapter, bitfit"
        )
    return {f"{NAME}.weight": (num_tokens, embeddings.weight.shape[1])}


def insert_prompt(model: Any, num_tokens: int) -> None:
    """Give the model a soft prompt, in place, which starts with the embeddings of tokens drawn from torch's generator.

    Its vectors are float32, on the device of the embeddings.

    Raises:
        SettingError: as `prompt_shapes`.
    """
    prompt_shapes(model, num_tokens)
    embeddings = model.get_input_embeddings()
    drawn = torch.randint(_first_id(model), (num_tokens,))
    with torch.no_grad():
        weight = embeddings(drawn[None].to(embeddings.weight.device))[0].float().clone()
    prompt = SoftPrompt(weight, _first_id(model))
    model.add_module(MODULE, prompt)
    embeddings.register_forward_pre_hook(prompt.before)
    embeddings.register_forward_hook(prompt.after)


def prompt_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the inserted soft prompt by its stored name."""
    return {f"{NAME}.weight": model.get_submodule(MODULE).weight}  # type: ignore[dict-item]


def prompt_ids(model: nn.Module) -> tuple[int, ...]:
    """Return the ids of the virtual tokens that stand in front of every row; none for a model without soft prompt."""
    prompt = getattr(model, MODULE, None)
    return tuple(range(prompt.first_id, prompt.first_id + len(prompt.weight))) if prompt is not None else ()


def _first_id(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
