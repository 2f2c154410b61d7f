"""On a GPU: a process group of one over NCCL tunes as one process does, and a real lack of memory is survived."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tasks.core.blocks.locate_blocks import get_stack
from tasks.core.blocks.surgery import tuned_parameters
from tests.core.blocks.test_out_of_memory import CUT, most_apart, tune
from tests.core.tuning.test_parallel import MODES, SETTINGS, alone, require_close, run
from tests.core.tuning.test_train import SHARED, Kept, emulator, examples

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as a process group of its own."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")
    torch.cuda.set_device(0)
    meeting = f"file://{tmp_path / 'meeting'}"
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl", init_method=meeting, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("parallel", MODES)
def test_one_gpu_in_a_group_ends_with_the_weights_of_one_alone(group: None, parallel: str, family: str) -> None:
    expected = alone(family, device="cuda:0")
    found = run(0, emulator(SHARED, 0.0, family), SHARED, SETTINGS, parallel, device="cuda:0")
    assert found[4] == ""
    require_close(
        {name: tensor.cpu() for name, tensor in found[1].items()}, {k: v.cpu() for k, v in expected[1].items()}
    )
    stopped = run(0, emulator(SHARED, 0.0, family), SHARED, SETTINGS, parallel, device="cuda:0", stop=(0, 4))
    again = alone(family, device="cuda:0", saved=stopped[3][-1])
    require_close(
        {name: tensor.cpu() for name, tensor in again[1].items()}, {k: v.cpu() for k, v in expected[1].items()}
    )


@pytest.mark.parametrize("parallel", MODES)
def test_narrow_computing_on_a_gpu(group: None, parallel: str) -> None:
    expected = alone("llama", device="cuda:0", precision="bfloat16")
    model = emulator(SHARED, 0.0, "llama")
    found = run(0, model, SHARED, SETTINGS, parallel, device="cuda:0", precision="bfloat16")
    assert {tensor.dtype for tensor in found[1].values()} == {torch.float32}
    assert found[2][1]["loss"] == pytest.approx(expected[2][1]["loss"], rel=1e-2)
    assert tuned_parameters(model, SHARED)[0].device.type == "cuda"


def test_a_gpu_tunes_as_the_cpu_does_and_goes_on_where_it_stopped() -> None:
    settings = replace(CUT, eval_steps=2)
    options = {"device": "cuda:0", "validation": examples(4, seed=9)}
    _, expected, _ = tune(emulator(family="llama"), settings, **options)
    _, on_cpu, _ = tune(emulator(family="llama"), settings, validation=examples(4, seed=9))
    assert most_apart({name: tensor.cpu() for name, tensor in expected.items()}, on_cpu) < 2e-5
    kept, steps = Kept(), iter(range(1, 100))
    with pytest.raises(Exception, match="stopped after step 3"):
        tune(emulator(family="llama"), settings, checkpoint=kept, should_stop=lambda: next(steps) == 3, **options)
    _, again, _ = tune(emulator(family="llama"), settings, checkpoint=kept, **options)
    assert most_apart(again, expected) < 1e-5, "kernels of a GPU may add in another order each time"


def test_a_gpu_that_is_really_out_of_memory_cuts_finer() -> None:
    """A pass that asks for more than the device has, for each token."""
    model, num_faults = emulator(family="llama"), []

    def greedy(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        tokens = kwargs["input_ids"].numel()
        if module.training and tokens > 8:
            try:
                torch.empty(2 * torch.cuda.get_device_properties(0).total_memory, dtype=torch.uint8, device="cuda:0")
            except torch.OutOfMemoryError:
                num_faults.append(tokens)
                raise

    get_stack(model).register_forward_pre_hook(greedy, with_kwargs=True)
    result, found, _ = tune(model, CUT, device="cuda:0")
    assert len(num_faults) == 1
    assert (result.out_of_memory_step, result.max_tokens) == (1, num_faults[0] // 2)
    _, expected, _ = tune(emulator(family="llama"), CUT, device="cuda:0")
    assert most_apart(found, expected) < 1e-5
