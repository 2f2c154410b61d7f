"""Random numbers of DP-SGD, from a secret key: nobody who knows the settings and the seed can compute them.

The seed of a tuning is 0 unless it is set, and the other party knows this program. With noise from the seed, it could
subtract the noise from what comes back. The numbers are those of the stream cipher ChaCha20 (RFC 8439) instead. They
depend on the key, the step and the purpose alone, so that a tuning that was killed goes on with the same bits.
"""

import math
import secrets

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEY_BYTES = 32
# Doubles have 53 bits.
BITS = 53
# Pairs of numbers that are made at once, to bound the memory.
CHUNK = 1 << 20
SAMPLING, NOISE = 0, 1


def new_key() -> str:
    """Return a new secret key in hexadecimal."""
    return secrets.token_hex(KEY_BYTES)


class SecretNumbers:
    """Random numbers of one purpose in one step of a tuning. purpose: SAMPLING or NOISE."""

    def __init__(self, key: str, step: int, purpose: int) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

        # 64 bits of a counter, which starts at 0, then 64 bits of purpose and step.
        nonce = bytes(8) + ((step << 1) | purpose).to_bytes(8, "little")
        self._stream = Cipher(ChaCha20(bytes.fromhex(key), nonce), mode=None).encryptor()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return numbers in [0, 1)."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")
        return (words >> np.uint64(64 - BITS)).astype(np.float64) * 2.0**-BITS

    def normal(self, shape: torch.Size) -> Tensor:
        """Return numbers of a normal distribution, mean 0 and variance 1, in float32 (Box and Muller 1958)."""
        count = math.prod(shape)
        made = np.empty(count + count % 2, dtype=np.float32)
        for start in range(0, len(made), 2 * CHUNK):
            pairs = made[start : start + 2 * CHUNK].reshape(-1, 2)
            first, second = self.uniform(len(pairs)), self.uniform(len(pairs))
            # 1 - u lies in (0, 1], so that its logarithm is finite.
            radius, angle = np.sqrt(-2.0 * np.log1p(-first)), 2.0 * math.pi * second
            pairs[:, 0], pairs[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
        return torch.from_numpy(made[:count]).reshape(shape)


def sampled_rows(num_rows: int, sampling_rate: float, key: str, step: int) -> list[int]:
    """Return the rows of a step: each is there with the same probability, independently of the others (Poisson)."""
    return np.flatnonzero(SecretNumbers(key, step, SAMPLING).uniform(num_rows) < sampling_rate).tolist()
