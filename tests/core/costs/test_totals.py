"""Estimated operations and memory, against torch's own counts on models of several families."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from tasks.core.batching import Batch, Example
from tasks.core.blocks.surgery import with_layout
from tasks.core.capturing import capture_states
from tasks.core.costs import totals as costs
from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.shapes import Shape, shape_of
from tasks.core.costs.totals import Passes
from tasks.core.costs.workloads import Lengths, scoring_passes, sorted_passes, training_passes
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.plan.layout import Plan, fixed_plan, full_plan, uniform_plan
from tasks.core.tuning.losses import AnswerLoss
from tasks.core.tuning.precision import set_formats
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import TunedBlocks
from tests.core import more_families
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, VOCABULARY

COUNTED = ("opt", "gpt2", "bloom", "gpt_neox", "llama", "qwen3", "gemma2", "phi3")
WINDOWED = ("qwen3", "gemma2", "phi3")
CONTEXT = 64


@cache
def shape_of_family(family: str) -> Shape:
    config = FAMILIES[family]() if family in FAMILIES else more_families.make_config(family)
    return shape_of(config, CONTEXT)


def network(family: str) -> tuple[PreTrainedModel, Shape]:
    """A random model whose attention is plain products, which are counted whatever the machine, and its shape."""
    model = AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation="eager")
    return model, shape_of_family(family)


def rows(num_rows: int = 8, answer: int = 3) -> list[Example]:
    """Rows of different lengths."""
    lengths = random.Random(1).choices(range(8, 49), k=num_rows)
    return [Example(tuple(range(3, 3 + n - answer)), (5,) * answer, at) for at, n in enumerate(lengths, start=1)]


def lengths_of(examples: list[Example]) -> Lengths:
    return Lengths.of([(row.num_tokens, len(row.answer_ids)) for row in examples])


def counted(run: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", COUNTED)
def test_the_shape_counts_every_parameter_once(family: str) -> None:
    model, shape = network(family)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.num_blocks, shape.vocabulary) == (NUM_BLOCKS, VOCABULARY)
    assert shape.blocks[0].is_gated == (family in ("llama", "qwen3", "gemma2", "phi3"))


@pytest.mark.parametrize("family", COUNTED)
def test_operations_of_capture(family: str) -> None:
    model, shape = network(family)
    examples = rows()
    passes = sorted_passes(lengths_of(examples), CONTEXT, 96)
    expected = costs.forward_flops(shape, Depth.whole(NUM_BLOCKS), Passes(passes.tokens, passes.squares, 0, 0, 0))
    assert counted(lambda: capture_states(model, examples, max_tokens=96)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("family", COUNTED)
def test_operations_of_scoring(family: str) -> None:
    model, shape = network(family)
    requests = [(row.prompt_ids, row.answer_ids) for row in rows()]
    # The last token is no input.
    found = Lengths.of([(len(before) + len(scored) - 1, len(scored)) for before, scored in requests])
    expected = costs.forward_flops(shape, Depth.whole(NUM_BLOCKS), sorted_passes(found, CONTEXT, 96))
    run = lambda: score_tokens(model.eval(), requests, CONTEXT, 96, share_prompts=False)  # noqa: E731
    assert counted(run) == pytest.approx(expected, rel=0.02)


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("max_tokens", [96, 1000])
@pytest.mark.parametrize("family", ["opt", "gpt2", "gpt_neox", "llama"])
def test_operations_of_scoring_with_trees(family: str, max_tokens: int) -> None:
    model, shape = network(family)
    requests, found = four_choices()
    passes = scoring_passes(found, CONTEXT, max_tokens, shape.limits, shape.longest_tree)
    assert passes.tokens < sorted_passes(found, CONTEXT, max_tokens).tokens / 2
    assert (passes.largest_kept, passes.largest <= max_tokens) == (0, True)
    expected = costs.forward_flops(shape, Depth.whole(NUM_BLOCKS), passes)
    found_by_torch = counted(lambda: score_tokens(model.eval(), requests, CONTEXT, max_tokens))
    assert found_by_torch == pytest.approx(expected, rel=0.02)


def four_choices() -> tuple[list[tuple[list[int], list[int]]], Lengths]:
    """Requests with four choices of equal length behind each prompt, as the estimate assumes, and their lengths."""
    generator = random.Random(2)
    prompts = [[generator.randrange(3, VOCABULARY) for _ in range(length)] for length in (9, 20, 21, 30)]
    requests = [(prompt, [first, 1, 2]) for prompt in prompts for first in range(4, 8)]
    lengths = [(len(before) + len(scored) - 1, len(scored)) for before, scored in requests]
    return requests, Lengths.of(lengths, per_prompt=4)


@pytest.mark.usefixtures("cheap_passes")
@pytest.mark.parametrize("max_tokens", [96, 1000])
@pytest.mark.parametrize("family", COUNTED)
def test_operations_of_scoring_in_two_parts(family: str, max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.core.evaluation.likelihoods.longest_tree", lambda _: 0)
    model, shape = network(family)
    requests, found = four_choices()
    passes = scoring_passes(found, CONTEXT, max_tokens)
    assert passes.tokens < sorted_passes(found, CONTEXT, max_tokens).tokens / 2
    assert 3 * 32 <= passes.largest_kept <= max_tokens
    expected = costs.forward_flops(shape, Depth.whole(NUM_BLOCKS), passes)
    found_by_torch = counted(lambda: score_tokens(model.eval(), requests, CONTEXT, max_tokens))
    if family in WINDOWED:
        # Their blocks keep the keys of a few tokens only.
        assert 0.9 * expected < found_by_torch < expected
    else:
        assert found_by_torch == pytest.approx(expected, rel=0.02)


PLANS: dict[str, Plan] = {
    "uniform": uniform_plan(NUM_BLOCKS, 4, 2),
    "upper": fixed_plan(NUM_BLOCKS, [0, 2, 3, 5], [3, 5]),
    "shared": fixed_plan(NUM_BLOCKS, [0, 3, 5], [3], "all"),
    "full": full_plan(NUM_BLOCKS),
}
LOWEST = {"uniform": 0, "upper": 2, "shared": 3, "full": 0}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", COUNTED)
def test_operations_of_tuning(family: str, plan: str) -> None:
    model, shape = network(family)
    made, depth = PLANS[plan], Depth.of(PLANS[plan])
    assert depth.lowest == LOWEST[plan]
    emulator, examples = with_layout(model, made), rows()
    settings = TrainSettings(learning_rate=1e-3, num_epochs=2, batch_size=len(examples), max_tokens=96)
    epoch, num_steps = training_passes(lengths_of(examples), CONTEXT, settings.batch_size, settings.max_tokens)
    assert num_steps == 1
    expected = costs.forward_flops(shape, depth, epoch.times(2))
    expected += costs.backward_flops(shape, depth, epoch.times(2))
    assert counted(lambda: train(TunedBlocks(emulator, made), examples, [], settings)) == pytest.approx(
        expected, rel=0.03
    )


@contextmanager
def kept_for_backward(known: set[int], weights: set[tuple[int, ...]]) -> Iterator[list[int]]:
    """Bytes that autograd keeps, without the tensors in `known` and copies of weights; each memory counts once."""
    seen: dict[int, torch.Tensor] = {}
    total = [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        is_copy = tuple(sorted(tensor.shape)) in weights
        if place not in known and place not in seen and not is_copy:
            seen[place] = tensor
            total[0] += tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


# GPT-NeoX cuts queries, keys and values out of one tensor, which stays whole.
TOLERANCE = {"opt": 0.11, "gpt2": 0.11, "llama": 0.11, "qwen3": 0.11, "olmo2": 0.11, "gpt_neox": 0.26}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", TOLERANCE)
def test_saved_activations(family: str, plan: str, precision: str) -> None:
    config = FAMILIES[family]()
    model, made = AutoModelForCausalLM.from_config(config).eval(), PLANS[plan]
    emulator, shape = with_layout(model, made), shape_of_family(family)
    set_formats(TunedBlocks(emulator, made), precision)
    known = {tensor.untyped_storage().data_ptr() for tensor in [*emulator.parameters(), *emulator.buffers()]}
    ids = torch.randint(3, VOCABULARY, (4, 48))
    labels = torch.full_like(ids, -100)
    labels[:, -1] = 5
    # Autocast's copies of trained weights are counted with the weights.
    weights = {tuple(sorted(parameter.shape)) for parameter in emulator.parameters() if parameter.dim() == 2}
    narrow = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    with kept_for_backward(known, weights) as total, narrow:
        AnswerLoss(emulator)(Batch(ids, torch.ones_like(ids), labels, (1, 2, 3, 4)))
    expected = ids.numel() * costs.saved_bytes(shape, Depth.of(made), costs.FORMATS[precision]) + 8 * 4 * VOCABULARY
    # The statistics of GPT-NeoX's layer norms stay float32.
    assert total[0] == pytest.approx(expected, rel=TOLERANCE[family] + 0.02 * (precision == "bfloat16"))


def test_memory_of_tuning_is_weights_optimizer_and_activations() -> None:
    _, shape = network("llama")
    depth, none = Depth.of(PLANS["uniform"]), Passes(0, 0, 0, 0, 0)
    full = Depth.whole(NUM_BLOCKS)
    wide = costs.tune_bytes(shape, full, none, "float32")
    assert wide == 4 * shape.outside + 16 * NUM_BLOCKS * shape.block
    assert costs.tune_bytes(shape, depth, none, "float32") == 4 * (shape.outside + 2 * shape.block) + 32 * shape.block
    assert costs.tune_bytes(shape, depth, none, "bfloat16") < costs.tune_bytes(shape, depth, none, "float32")
    some = Passes(100, 1000, 10, 100, 10)
    more = [costs.tune_bytes(shape, replace(depth, lowest=lowest), some, "bfloat16") for lowest in (0, 1, 2)]
    assert more == sorted(more, reverse=True)
    assert costs.tune_bytes(shape, depth, some, "bfloat16", Trained(recompute=True)) < more[0]
    assert costs.tune_bytes(shape, depth, some, "bfloat16", Trained(extra=(100,) * NUM_BLOCKS)) < more[0]


def test_recomputing_costs_one_more_forward_pass() -> None:
    _, shape = network("opt")
    depth, passes = Depth.of(PLANS["uniform"]), Passes(100, 1000, 10, 100, 10)
    twice = costs.backward_flops(shape, depth, passes, Trained(recompute=True))
    headless = costs.forward_flops(shape, depth, Passes(100, 1000, 0, 100, 0))
    assert twice == pytest.approx(costs.backward_flops(shape, depth, passes) + headless)
