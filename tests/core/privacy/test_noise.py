"""Secret random numbers: of the distributions that they say, and different for each key, step and purpose."""

import numpy as np
import pytest
import torch
from scipy import stats

from tasks.core.privacy import noise
from tasks.core.privacy.noise import NOISE, SAMPLING, SecretNumbers, new_key, sampled_rows

KEY = "07" * 32


def test_the_bits_are_those_of_the_published_cipher():
    """RFC 8439, appendix A.1, test vector 1: key, counter and nonce of zeros."""
    words = SecretNumbers("00" * 32, 0, SAMPLING).uniform(2)
    stream = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28")
    expected = [(int.from_bytes(stream[at : at + 8], "little") >> 11) / 2**53 for at in (0, 8)]
    assert words.tolist() == expected


def test_noise_is_normal_and_independent():
    drawn = SecretNumbers(KEY, 3, NOISE).normal(torch.Size([200_001])).double().numpy()
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    assert abs(np.corrcoef(drawn[:-1:2], drawn[1::2])[0, 1]) < 0.02
    assert np.isfinite(drawn).all()


def test_large_tensors_are_drawn_in_parts(monkeypatch):
    monkeypatch.setattr(noise, "CHUNK", 100)
    drawn = SecretNumbers(KEY, 0, NOISE).normal(torch.Size([33, 31]))
    assert len(set(drawn.flatten().tolist())) > 1000
    assert float(drawn.std()) == pytest.approx(1, abs=0.1)


def test_key_step_and_purpose_each_give_other_numbers():
    found = [
        SecretNumbers(key, step, purpose).uniform(4).tolist()
        for key in (KEY, "08" * 32)
        for step in (0, 1)
        for purpose in (SAMPLING, NOISE)
    ]
    assert len({tuple(each) for each in found}) == 8
    assert found[0] == SecretNumbers(KEY, 0, SAMPLING).uniform(4).tolist()


def test_keys_are_new_and_long():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {64}


def test_rows_are_sampled_independently_with_the_same_probability():
    counts, sizes = np.zeros(50), []
    for step in range(2000):
        rows = sampled_rows(50, 0.1, KEY, step)
        assert rows == sorted(set(rows))
        counts[rows] += 1
        sizes.append(len(rows))
    assert counts / 2000 == pytest.approx(0.1, abs=0.03)
    # A binomial number of rows, sometimes none: what a fixed batch size never has.
    assert np.var(sizes) == pytest.approx(50 * 0.1 * 0.9, rel=0.15)
    assert min(sizes) == 0
    assert sampled_rows(50, 1.0, KEY, 0) == list(range(50))
