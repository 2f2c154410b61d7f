"""The GPU measurement runs: on the CPU with a tiny shape, on a GPU with OPT-1.3B's."""

from collections.abc import Callable

import pytest
import torch

from tests.bench.gpu_tuning import PUBLISHED, SHAPE, TINY, TINY_STEPS, TINY_TOKENS, measure, table, ways


def test_the_four_ways_run_and_train_what_they_say() -> None:
    """On a tiny shape; part of the tests, so that the measurement works when a GPU is there."""
    size = (TINY_TOKENS, TINY_STEPS)
    found = [measure(name, TINY, plan, variant, "cpu", *size) for name, (plan, variant) in ways(24).items()]
    by_name = {each.name: each for each in found}
    assert list(by_name) == list(PUBLISHED)
    assert all(each.tokens_per_second > 0 and each.utilisation is None for each in found)
    trained = {name: each.trained_parameters for name, each in by_name.items()}
    assert trained["full"] == 6 * trained["OFT"], "24 blocks against 4"
    assert trained["LoRA"] == 6 * trained["OFT + LoRA"]
    assert trained["LoRA"] < trained["OFT"]
    assert by_name["OFT"].flops < by_name["LoRA"].flops < by_name["full"].flops
    assert "8525" in table(found)


@pytest.mark.bench
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_opt_1_3b(row: Callable[[str, str, str], None]) -> None:
    for name, (plan, variant) in ways(24).items():
        each = measure(name, SHAPE, plan, variant, "cuda:0")
        speed, memory = PUBLISHED[name]
        shown = f"{each.tokens_per_second:.0f} tokens/s, {each.peak_memory_mb:.0f} MB, MFU {each.utilisation or 0:.1%}"
        row(f"OPT-1.3B, {name}", shown, f"published {speed}, {memory}")
        torch.cuda.empty_cache()
