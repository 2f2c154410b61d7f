"""On a GPU: blocks that are copied beside the kernels give the states of a pass in its memory."""

import pytest
import torch
from torch import Tensor

from tasks.core.blocks.streaming import run_streamed
from tasks.core.blocks.surgery import capture_blocks
from tests.core.blocks.test_streaming import on_disk
from tests.core.tiny_models import NUM_BLOCKS, tiny_model, token_ids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@torch.inference_mode()
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_states_are_those_of_a_pass_in_the_memory_of_the_gpu(family: str) -> None:
    # Many passes for each block, so that the next block is there long before the last one of them.
    batches = [(token_ids(8, 32, seed=number).to("cuda"), None) for number in range(20)]
    model = tiny_model(family)
    emptied, tensors = on_disk(model)
    emptied._apply(lambda tensor: tensor if tensor.is_meta else tensor.to("cuda"))
    seen: dict[tuple[int, int], Tensor] = {}
    run_streamed(
        emptied, tensors, batches, lambda number, index, before, state: seen.update({(number, index): state.clone()})
    )
    with capture_blocks(model.to("cuda"), lambda index, state: state.clone()) as run:
        for number, (ids, mask) in enumerate(batches):
            for index, state in enumerate(run(ids, mask)):
                torch.testing.assert_close(seen[number, index], state)
    assert len(seen) == len(batches) * (NUM_BLOCKS + 1)
