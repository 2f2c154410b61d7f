"""Test which operations are exact for a family, by running the laws in `laws` on a small random model of it."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from tasks.core.blocks.locate_blocks import text_config
from tasks.core.families.laws import LAWS, Subject
from tasks.core.families.plain_passes import BrokenLawError

LENGTHS = (11, 7, 9)
LONGEST_REASON = 200


@dataclass(frozen=True)
class Support:
    """Operations that a family supports. failed: operations that are not exact, each with the reason."""

    failed: dict[str, str]


def try_model(model: Any) -> Support:
    """Run every law on a separate copy of a small model, because a failing operation may change its model."""
    rows = _rows(text_config(model.config).vocab_size)
    failed = {}
    for operation, law in LAWS.items():
        subject = Subject(copy.deepcopy(model), rows)
        try:
            law(subject)
            if not _same_weights(subject.model, model):
                raise BrokenLawError("running the model changes its weights")
        except Exception as error:
            failed[operation] = _reason(error)
    return Support(failed)


def random_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Make a random model in float32, in evaluation mode and without dropout.

    Weights are larger than at initialisation, so that every block matters.
    """
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.2 if parameter.dim() > 1 else parameter + noise * 0.2)
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (name == "p" or "dropout" in name or "jitter" in name):
                setattr(module, name, 0.0)
    return model.eval()


def _same_weights(model: Any, other: Any) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), other.parameters(), strict=True))


def _rows(vocabulary: int) -> tuple[tuple[int, ...], ...]:
    """Draw token ids of three rows, without ids that are special in most families."""
    generator = torch.Generator().manual_seed(1)
    return tuple(tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist()) for length in LENGTHS)


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())[:LONGEST_REASON]
    return words if isinstance(error, BrokenLawError) else f"{type(error).__name__}: {words}"
