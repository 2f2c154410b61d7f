"""A model on one device, or spread over all GPUs that this process sees."""

from typing import Any

import torch

EVERY = "auto"


def place(model: Any, device: str | torch.device) -> Any:
    """The model on `device`; "auto" puts whole blocks on one GPU after another, evenly, and the rest in memory.

    Blocks must be changed (layout, plug-in) before: what spreads a model ties each module to its place.
    """
    if device != EVERY:
        return model.to(device)
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(getattr(model, "_no_split_modules", None) or [])
    memory = get_balanced_memory(model, no_split_module_classes=whole)
    places = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    return dispatch_model(model, places)
