"""Attention of a tuning on a CPU: of bfloat16 models in float32, whose fused kernel is faster on short rows.

Shapes: B rows, H heads, T tokens, d width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "crash_float32_sdpa"
# Forward and backward pass of 2,048 tokens with 12 heads of 64 on one core with AMX, milliseconds in bfloat16 and in
# float32: 67 and 22 for rows of 32 tokens, 82 and 39 for 128, 66 and 61 for 256, 91 and 104 for 512.
MOST_TOKENS = 256


@contextmanager
def float32_attention(model: Any, enabled: bool = True) -> Iterator[None]:
    """Compute attention of short rows in float32 within the context, where the model uses torch's fused kernels."""
    if not enabled or getattr(model.config, "_attn_implementation", None) != "sdpa":
        yield
        return
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return [B, T, H, d] in the data type of the values; arguments as those of transformers' function.

    The float32 tensors are computed again in the backward pass, so that no more memory is held than in bfloat16.
    """
    if not torch.is_grad_enabled() or key.shape[2] > MOST_TOKENS:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    random = options.get("dropout", 0.0) > 0
    compute = partial(_in_float32, module, options)
    return checkpoint(compute, query, key, value, attention_mask, use_reentrant=False, preserve_rng_state=random), None


def _in_float32(
    module: Any, options: dict[str, Any], query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    if mask is not None and mask.is_floating_point():
        mask = mask.float()
    with torch.autocast(query.device.type, enabled=False):
        wide = sdpa_attention_forward(module, query.float(), key.float(), value.float(), mask, **options)[0]
    return wide.to(value.dtype)
