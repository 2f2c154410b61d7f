"""Trained parameters, stored parameters and operations as the settings say them, against real tiny emulators."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from flows.cost.plan_sizes import compressed, trained_of
from flows.settings.run import Settings
from tasks.core.batching import Example, prepend_ids
from tasks.core.blocks.factored import linear_shapes, put_factors
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.compression.settings import is_worth_two, rank_within
from tasks.core.costs import depths
from tasks.core.costs import totals as costs
from tasks.core.costs.depths import Depth
from tasks.core.costs.totals import Passes
from tasks.core.costs.workloads import training_passes
from tasks.core.plan.layout import Plan, fixed_plan, uniform_plan
from tasks.core.tuning.distilling import FrozenBlocks
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import Trained, make_trained
from tests.core.costs.test_totals import CONTEXT, counted, lengths_of, network, rows, shape_of_family
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model
from tests.core.tuning.test_variants import BIASED, PLAN

UNIFORM = uniform_plan(NUM_BLOCKS, 5, 2)
PLANS = {"repeated": PLAN, "uniform": UNIFORM, "low": fixed_plan(NUM_BLOCKS, (0, 1, 3, 5), (3, 5))}
TUNES: dict[str, dict[str, Any]] = {
    "blocks": {},
    "frozen": {"trained": "frozen"},
    "all": {"trained": "all"},
    "head": {"lm_head": True},
    "lora": {"method": "lora", "lora_rank": 3},
    "lora all": {"method": "lora", "lora_rank": 3, "trained": "all", "lm_head": True},
    "adapter": {"method": "adapter", "adapter_size": 5},
    "bitfit": {"method": "bitfit"},
    "bitfit frozen": {"method": "bitfit", "trained": "frozen"},
    "prompt": {"method": "prompt", "prompt_tokens": 3},
}
LOW_RANK = {"method": "low_rank", "rank": 0.25}


def settings(**groups: Any) -> Settings:
    values = {"model": {"name": "m"}, "task": {"name": "arc_easy"}, "plan": {"num_kept": 5, "num_tuned": 2}, **groups}
    return Settings.model_validate(values)


def factored_emulator(model: PreTrainedModel, plan: Plan, share: float) -> PreTrainedModel:
    """The emulator with every linear module of its frozen blocks in two factors, where they are smaller."""
    emulator = with_layout(model, plan)
    for block, (source, _) in zip(get_blocks(emulator), plan.layout, strict=True):
        for path, each in linear_shapes(block).items() if source in plan.frozen else ():
            rank = rank_within(share, each.num_in, each.num_out)
            if is_worth_two(rank, each.num_in, each.num_out):
                put_factors(block, path, torch.randn(each.num_out, rank), torch.randn(rank, each.num_in))
    return emulator


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (family, words)
        for family, words in itertools.product(FAMILIES, TUNES)
        if family in BIASED or not words.startswith("bitfit")
    ],
)
def test_number_of_trained_parameters(family: str, words: str) -> None:
    chosen, shape = settings(tune=TUNES[words]), shape_of_family(family)
    real = make_trained(with_layout(tiny_model(family), PLAN), PLAN, chosen.tune.tuning_method).parameters()
    expected = costs.trained_parameters(shape, Depth.of(PLAN), trained_of(chosen, shape))
    assert expected == sum(parameter.numel() for parameter in real)


def tuning_flops(trained: Trained, examples: list[Example]) -> float:
    how = TrainSettings(learning_rate=1e-3, num_steps=1, batch_size=len(examples), max_tokens=10_000)
    return counted(lambda: train(trained, examples, [], how))


def one_pass(examples: list[Example]) -> Passes:
    return training_passes(lengths_of(examples), CONTEXT, len(examples), 10_000)[0]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("words", TUNES)
def test_operations_of_every_variant(words: str, plan: str) -> None:
    model, shape = network("gpt2")
    made, chosen, examples = PLANS[plan], settings(tune=TUNES[words]), rows()
    depth, how = Depth.of(made), trained_of(chosen, shape)
    passes = one_pass(prepend_ids((0,) * how.inputs, examples))
    expected = costs.forward_flops(shape, depth, passes, how) + costs.backward_flops(shape, depth, passes, how)
    real = tuning_flops(make_trained(with_layout(model, made), made, chosen.tune.tuning_method), examples)
    # Where no norm is trained, nothing needs the gradient of the lowest trained block's input.
    assert real == pytest.approx(expected, rel=0.03 if how.extra is None else 0.1)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "qwen3"])
def test_an_emulator_in_two_factors(family: str, plan: str) -> None:
    model, shape = network(family)
    made, examples = PLANS[plan], rows()
    emulator = factored_emulator(model, made, LOW_RANK["rank"])
    depth = compressed(Depth.of(made), settings(compress=LOW_RANK))
    assert depth.multiplied(shape, made.frozen[0]) < 0.6 * shape.matrices
    # A block at several positions is stored once.
    each = {source: num_parameters(block) for block, (source, _) in zip(get_blocks(emulator), made.layout, strict=True)}
    assert costs.emulator_parameters(shape, depth) == shape.outside + sum(each.values())
    passes = one_pass(examples)
    for words in ("blocks", "all"):
        how = trained_of(settings(tune=TUNES[words]), shape)
        expected = costs.forward_flops(shape, depth, passes) + costs.backward_flops(shape, depth, passes, how)
        trained = make_trained(
            factored_emulator(model, made, 0.25), made, settings(tune=TUNES[words]).tune.tuning_method
        )
        assert tuning_flops(trained, examples) == pytest.approx(expected, rel=0.03)


def test_attention_alone_in_two_factors() -> None:
    depth = compressed(Depth.of(UNIFORM), settings(compress=LOW_RANK | {"parts": "attention"}))
    assert depth.attention_only
    assert not compressed(Depth.of(UNIFORM), settings(compress=LOW_RANK)).attention_only
    block = shape_of_family("llama").blocks[0]
    attention = sum(a * b - 8 * (a + b) for a, b in ((32, 32), (32, 32)))
    keys = 2 * (32 * 16 - 4 * (32 + 16))
    assert depths.saved_by_compressing(block, 0.25, None, attention_only=True) == attention + keys


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_operations_of_distillation(family: str, plan: str) -> None:
    teacher, shape = network(family)
    made, block = PLANS[plan], 24
    trained = FrozenBlocks(with_layout(network(family)[0], made), made, teacher, 30.0)
    windows = [Example((3,), (5,) * (block - 1), number) for number in range(1, 9)]
    depth, how = Depth.of(made), depths.Trained(tuned=False, frozen=True)
    passes = Passes(8 * block, 8 * block**2, 8 * (block - 1), 8 * block, 8 * block)
    assert depth.taught is not None
    expected = costs.forward_flops(shape, Depth.whole(depth.taught), replace(passes, answers=0))
    expected += costs.forward_flops(shape, depth, passes) + costs.backward_flops(shape, depth, passes, how)
    assert tuning_flops(trained, windows) == pytest.approx(expected, rel=0.03)
