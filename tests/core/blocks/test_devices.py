"""One device, or all: what is computed stays the same. GPUs are imitated by accelerate's hooks on the CPU."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from tasks.core.batching import collate
from tasks.core.blocks.devices import place
from tasks.core.blocks.surgery import with_layout
from tasks.core.errors import InterruptedRun
from tasks.core.tuning.losses import AnswerLoss
from tests.core.tiny_models import tiny_model, token_ids
from tests.core.tuning.test_losses import examples
from tests.core.tuning.test_train import PLAN, SETTINGS, Kept, emulator, tune


def test_on_a_machine_without_gpus_auto_is_the_cpu():
    model, plain = place(tiny_model("llama"), "auto"), tiny_model("llama")
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert torch.equal(model(token_ids()).logits, plain(token_ids()).logits)


def test_tuning_with_auto_equals_tuning_on_the_cpu():
    _, expected, _ = tune(emulator(), SETTINGS)
    _, found, _ = tune(emulator(), SETTINGS, device="auto")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_loss_and_gradients_of_a_model_with_hooks_on_every_module():
    batch = collate(examples(), 0)
    gradients, sums = [], []
    for spread in (False, True):
        model = with_layout(tiny_model("llama"), PLAN)
        if spread:
            add_hook_to_module(model, AlignDevicesHook(execution_device="cpu", io_same_device=True))
            for module in (model.model.embed_tokens, *model.model.layers, model.model.norm, model.lm_head):
                add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))
            assert hasattr(model.model.layers[0], "_hf_hook")
        summed, _ = AnswerLoss(model)(batch)
        sums.append(summed)
        summed.backward()
        gradients.append({name: part.grad for name, part in model.named_parameters() if part.grad is not None})
    assert torch.equal(*sums)
    assert gradients[0].keys() == gradients[1].keys() != set()
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


def test_a_checkpoint_of_a_machine_with_gpus_goes_on_without():
    kept = Kept()
    steps = iter(range(1, 100))
    with pytest.raises(InterruptedRun):
        tune(emulator(), SETTINGS, checkpoint=kept, should_stop=lambda: next(steps) == 3)
    tensors, facts = kept.load()
    tensors["random/cuda/0"] = torch.zeros(16, dtype=torch.uint8)
    _, found, _ = tune(emulator(), SETTINGS, checkpoint=Kept((tensors, facts)))
    _, expected, _ = tune(emulator(), SETTINGS)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
