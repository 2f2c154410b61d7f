"""Placement of a model on one device, or spread over all GPUs that are visible to the process."""

from typing import Any

import torch

EVERY = "auto"


def input_device(model: Any) -> torch.device:
    """Return the device of the embeddings, where the inputs of a pass have to be."""
    return model.get_input_embeddings().weight.device


def place(model: Any, device: str | torch.device) -> Any:
    """Move the model to `device`; "auto" spreads whole blocks evenly over the GPUs, and the rest over main memory.

    Change blocks (layout, plug-in) before the call: spreading ties each module to its device.
    """
    if device != EVERY:
        return model.to(device)
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(getattr(model, "_no_split_modules", None) or [])
    memory = get_balanced_memory(model, no_split_module_classes=whole)
    places = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    return dispatch_model(model, places)
