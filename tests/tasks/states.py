"""States of our own in a store, as `capture` would have written them."""

import hashlib

import torch

from tasks.artifacts.states import write_states
from tasks.store.artifacts import Ref, Store
from tasks.store.keys import canonical_json


def published_states(store: Store, states: torch.Tensor, **arguments: object) -> Ref:
    """An artifact of states [N+1, n, d]; arguments: of the capture that it is said to come from."""
    inputs = {"stage": "capture", "arguments": arguments, "content": states.double().nan_to_num(0.5).sum().item()}
    key = hashlib.sha256(canonical_json(inputs).encode()).hexdigest()
    cosine = torch.nn.functional.cosine_similarity(states[:-1].nan_to_num(), states[1:].nan_to_num(), dim=-1)
    tensors = {"states": states, "last": states.clone(), "block_influence": 1 - cosine.mean(1)}
    with store.publishing("capture", key) as out:
        write_states(out, tensors)
        return store.publish("capture", key, out, inputs).ref


def random_states(num_states: int = 7, num_rows: int = 20, width: int = 8, seed: int = 0) -> torch.Tensor:
    """States that drift from block to block."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_states, num_rows, width, generator=generator).cumsum(0)
