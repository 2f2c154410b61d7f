"""Channels that hold most of a state's variance, and states without them or with all channels alike.

In many language models, a few channels of the states are hundreds of times larger than the others (massive
activations: Sun et al. 2024, arXiv 2402.17762), so that a measure that adds up over channels sees these alone. To leave
them out, and to standardise every channel, are the remedies of Timkey and van Schijndel 2021 (arXiv 2109.04404).
Shapes: N states, n rows, d channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# A channel is massive if it holds more than this share of a state's variance, and this many times the mean share.
MASSIVE_SHARE, MASSIVE_RATIO = 0.1, 10.0
# At most this share of all channels is left out.
MOST_LEFT_OUT = 0.1
# From here on, CKA sees hardly more than one channel.
DOMINATING_SHARE = 0.5


def largest_channels(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest share of one channel in the variance over rows of each state, and this channel.

    states: [N, n, d]. Returns float32 [N], 0 for a state without variance, and int64 [N].
    """
    variance = _variances(states)
    largest, channel = variance.max(dim=1)
    return (largest / variance.sum(dim=1).clamp_min(torch.finfo(variance.dtype).tiny)).float(), channel


def dominated(shares: Sequence[float], channels: Sequence[int], estimator: str) -> str:
    """Return a sentence about states in which one channel holds more than half of the variance; empty if none does.

    shares, channels: lists of `largest_channels`, of the N+1 states, the first of which is the embeddings; estimator:
    that of the plans. Where it sees such a channel, the sentence names others.
    """
    found = [
        (share, channel) for share, channel in zip(shares[1:], channels[1:], strict=True) if share > DOMINATING_SHARE
    ]
    if not found:
        return ""
    sees_others = estimator in ("trimmed_cka", "standardised_cka")
    advice = "" if sees_others else '; similarity.estimator = "trimmed_cka" or "standardised_cka" sees the others'
    named = ", ".join(map(str, sorted({channel for _, channel in found})))
    return (
        f"Behind {len(found)} of {len(shares) - 1} blocks, one channel (number {named}) holds more than half of the"
        f" states' variance, up to {max(found)[0]:.0%}: linear CKA there sees little more than this channel{advice}."
    )


def massive_channels(states: Tensor) -> list[int]:
    """Return the channels that are massive in some state, in ascending order. states: [N, n, d].

    The largest one is left out as long as it is massive among those that remain.
    """
    variance = _variances(states)
    num_channels, found = variance.shape[1], list[int]()
    limit = max(MASSIVE_SHARE, MASSIVE_RATIO / num_channels)
    while len(found) < int(MOST_LEFT_OUT * num_channels):
        share = variance / variance.sum(dim=1, keepdim=True).clamp_min(torch.finfo(variance.dtype).tiny)
        largest, channel = share.max(dim=0).values.max(dim=0)
        if largest <= limit:
            break
        found.append(int(channel))
        variance[:, channel] = 0.0
    return sorted(found)


def without_massive_channels(states: Tensor) -> Tensor:
    """Return the states without the channels that are massive in any of them, [N, n, fewer].

    States that are not finite are returned as they are, to be refused by name where they are compared.
    """
    if not states.isfinite().all():
        return states
    kept = torch.ones(states.shape[-1], dtype=torch.bool, device=states.device)
    kept[massive_channels(states)] = False
    return states if bool(kept.all()) else states[..., kept]


def standardised(states: Tensor) -> Tensor:
    """Return the states with mean 0 and variance 1 over rows in every channel; 0 in one without variance. [N, n, d].

    States that are not finite are returned as they are.
    """
    if not states.isfinite().all():
        return states
    wide = states.float() if states.dtype != torch.float64 else states
    centred = wide - wide.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    # Of equal rows, rounding leaves a few units in the last place.
    noise = 8 * torch.finfo(wide.dtype).eps * wide.abs().amax(dim=1, keepdim=True)
    return torch.where(deviation > noise, centred / deviation.clamp_min(torch.finfo(wide.dtype).tiny), 0.0)


def _variances(states: Tensor) -> Tensor:
    """Return the variance over rows of every channel of every state, float64 [N, d]."""
    return torch.stack([state.double().var(dim=0, correction=0) for state in states])
