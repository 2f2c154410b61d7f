"""Costs of models whose blocks differ, and of mixtures of experts: every parameter is held, some are multiplied."""

import copy
import random
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama import LlamaConfig

from tasks.core.batching import Batch, Example
from tasks.core.blocks.locate_blocks import get_blocks, get_stack
from tasks.core.blocks.surgery import with_layout
from tasks.core.capturing import capture_states
from tasks.core.costs import operations
from tasks.core.costs import totals as costs
from tasks.core.costs.depths import Depth
from tasks.core.costs.shapes import Shape, shape_of
from tasks.core.costs.sizes import model_sizes
from tasks.core.costs.totals import Passes
from tasks.core.costs.workloads import Lengths, sorted_passes, training_passes
from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.plan.layout import Plan, fixed_plan, full_plan
from tasks.core.tuning.losses import AnswerLoss
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import TunedBlocks
from tests.core.costs.test_totals import CONTEXT, counted, kept_for_backward, lengths_of
from tests.core.more_families import NUM_BLOCKS, make_config
from tests.core.tiny_models import LLAMA_LIKE, VOCABULARY

# Experts alone; a first dense block, latent attention and experts that every token takes; those with a gate; biases.
MIXTURES = ("mixtral", "deepseek_v2", "deepseek_v3", "qwen2_moe", "gpt_oss")
FAMILIES = (*MIXTURES, "cohere2", "falcon", "gemma3n_text", "bamba")


@cache
def shape(family: str) -> Shape:
    return shape_of(make_config(family), CONTEXT)


def network(family: str) -> PreTrainedModel:
    """A random model with plain products, which torch counts on a CPU, unlike grouped ones."""
    model = AutoModelForCausalLM.from_config(make_config(family), attn_implementation="eager")
    model.set_experts_implementation("eager")
    return model.eval()


def rows(num_rows: int = 5, answer: int = 3) -> list[Example]:
    drawn = random.Random(1)
    ids = [
        [drawn.randrange(3, VOCABULARY) for _ in range(length)] for length in drawn.choices(range(8, 49), k=num_rows)
    ]
    return [Example(tuple(row[:-answer]), tuple(row[-answer:]), at) for at, row in enumerate(ids)]


PLANS = {
    "all": full_plan(NUM_BLOCKS),
    "with the first": fixed_plan(NUM_BLOCKS, (0, 2, 3), (0,)),
    "without the first": fixed_plan(NUM_BLOCKS, (1, 2, 3), (2,)),
    "shared": fixed_plan(NUM_BLOCKS, (0, 2), (2,), "all"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_held_and_counted_once(family: str) -> None:
    model, sizes = network(family), model_sizes(make_config(family))
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert shape(family).parameters == sizes.total == expected
    assert tuple(block.parameters for block in shape(family).blocks) == sizes.blocks
    for plan in PLANS.values():
        disclosed = costs.emulator_parameters(shape(family), Depth.of(plan))
        assert disclosed / expected == pytest.approx(sizes.disclosed(plan.kept))


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_are_told_apart(family: str) -> None:
    block = shape(family).blocks[-1]
    assert (shape(family).blocks[0].experts == 0) == family.startswith("deepseek")
    # Two of four; matrices of the router and those that every token takes are multiplied too.
    held = block.matrices - sum(
        own.numel() for name, own in get_blocks(network(family))[-1].named_parameters() if name.endswith("_bias")
    ) * (family == "gpt_oss")
    experts = block.experts - (block.matrices - held)
    assert block.multiplied == held - experts // 2
    assert block.is_gated
    assert block.hidden_width == {"mixtral": 96, "gpt_oss": 96}.get(family, 48)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_passes(family: str) -> None:
    model, examples = network(family), rows()
    passes = sorted_passes(lengths_of(examples), CONTEXT, 96)
    whole = Depth.whole(NUM_BLOCKS)
    if family != "gemma3n_text":
        expected = costs.forward_flops(shape(family), whole, Passes(passes.tokens, passes.squares, 0, 0, 0))
        assert counted(lambda: capture_states(model, examples, max_tokens=96)) == pytest.approx(expected, rel=0.03)
    requests = [(row.prompt_ids, row.answer_ids) for row in examples]
    found = Lengths.of([(len(before) + len(scored) - 1, len(scored)) for before, scored in requests])
    expected = costs.forward_flops(shape(family), whole, sorted_passes(found, CONTEXT, 96))
    assert counted(lambda: score_tokens(model, requests, CONTEXT, 96, share_prompts=False)) == pytest.approx(
        expected, rel=0.03
    )


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen2_moe", "gpt_oss"])
def test_operations_of_tuning(family: str, plan: str) -> None:
    """Which blocks are kept, and which are tuned, decides where the first one is dense."""
    made, examples = PLANS[plan], rows()
    emulator = with_layout(network(family), made)
    settings = TrainSettings(learning_rate=1e-3, num_steps=1, batch_size=len(examples), max_tokens=96)
    passes, _ = training_passes(lengths_of(examples), CONTEXT, len(examples), 96)
    depth = Depth.of(made)
    expected = costs.forward_flops(shape(family), depth, passes) + costs.backward_flops(shape(family), depth, passes)
    real = counted(lambda: train(TunedBlocks(emulator, made), examples, [], settings))
    assert real == pytest.approx(expected, rel=0.03)


def test_the_kept_blocks_decide_where_blocks_differ() -> None:
    found = {name: Depth.of(PLANS[name]) for name in ("with the first", "without the first")}
    first, other = (costs.emulator_parameters(shape("deepseek_v3"), depth) for depth in found.values())
    blocks = shape("deepseek_v3").blocks
    assert other - first == blocks[1].parameters - blocks[0].parameters > 0
    none = Passes(0, 0, 0, 0, 0)
    tuned = [costs.tune_bytes(shape("deepseek_v3"), depth, none, "float32") for depth in found.values()]
    # Experts that no token goes to are trained and have moments all the same.
    assert tuned[1] - tuned[0] == 16 * (blocks[2].parameters - blocks[0].parameters) + 4 * (
        blocks[1].parameters - blocks[2].parameters
    )


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "qwen2_moe"])
def test_saved_activations(family: str) -> None:
    """The order of magnitude: what a family's own code keeps of its routing depends on how experts are run."""
    made: Plan = PLANS["without the first"]
    emulator = with_layout(network(family), made)
    known = {tensor.untyped_storage().data_ptr() for tensor in [*emulator.parameters(), *emulator.buffers()]}
    ids = torch.randint(3, VOCABULARY, (4, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[:, -1] = 5
    with kept_for_backward(known, set()) as total:
        AnswerLoss(emulator)(Batch(ids, torch.ones_like(ids), labels, (1, 2, 3, 4)))
    expected = ids.numel() * costs.saved_bytes(shape(family), Depth.of(made), 4) + 8 * 4 * VOCABULARY
    assert expected == pytest.approx(total[0], rel=0.35)


def test_blocks_of_one_kind_are_counted_once() -> None:
    config = LlamaConfig(**LLAMA_LIKE)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ran: list[Any] = []
    for block in get_blocks(model):
        block.self_attn.register_forward_hook(lambda *_: ran.append(1))
    each, around = operations.count_operations(model)
    assert len(ran) == len(operations.LENGTHS)
    assert len(set(each)) == 1
    assert around.multiplied == 0
    assert all("forward" not in vars(block) for block in get_blocks(model))


def test_a_family_that_computes_in_chunks_is_approximate() -> None:
    assert "in chunks" in shape("qwen3_next").approximate
    assert not any(shape(family).approximate for family in FAMILIES)


def test_experts_that_cannot_be_counted_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.core.costs.shapes.count_operations", lambda _: None)
    monkeypatch.setattr("tasks.core.costs.shapes._known", {})
    with pytest.raises(InputError, match="mixtral: how many of its experts a token goes to cannot be counted"):
        shape_of(make_config("mixtral"), CONTEXT)
    # Others count as most families compute.
    guessed = shape_of(make_config("cohere2"), CONTEXT)
    assert "cannot run without memory" in guessed.approximate
    assert guessed.blocks == shape("cohere2").blocks


def test_the_config_stays_as_it_was() -> None:
    config = make_config("mixtral")
    before = copy.deepcopy(config).to_dict()
    shape_of(config, CONTEXT)
    assert config.to_dict() == before
    model = AutoModelForCausalLM.from_config(config)
    assert get_stack(model).config._experts_implementation != "batched_mm"
