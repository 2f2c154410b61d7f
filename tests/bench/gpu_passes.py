"""GPU measurements without training: capture, similarity, scoring with and without shared prompts, and a landscape."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from tasks.core.batching import Example
from tasks.core.blocks.locate_blocks import get_blocks
from tasks.core.blocks.surgery import aliased
from tasks.core.capturing import capture_states
from tasks.core.cka import linear_cka
from tasks.core.costs import totals
from tasks.core.costs.depths import Depth
from tasks.core.costs.workloads import Lengths, scoring_passes, sorted_passes
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.study.interpolation import Mixture, differences
from tasks.core.study.landscape import Measured as Point
from tasks.core.study.landscape import grid, plane_order, survey
from tests.bench.gpu_shapes import (
    CONTEXT,
    Measured,
    begin_peak,
    network,
    peak_memory,
    share_of_peak,
    sizes,
    wait,
)

# Of the whole benchmark and of the tiny one: rows, tokens of a row, tokens of a pass.
CAPTURE, TINY_CAPTURE = (256, 512, 32768), (4, 16, 64)
# Prompts, tokens of a prompt, choices, tokens of a choice, tokens of a pass.
SCORING, TINY_SCORING = (256, 96, 4, 16, 32768), (3, 20, 4, 3, 128)
# States, rows and width of a 70B model.
SIMILARITY, TINY_SIMILARITY = (81, 512, 8192), (5, 8, 16)
RESOLUTION, TINY_RESOLUTION = 7, 2


def passes(name: str, config: PreTrainedConfig, device: str, tiny: bool) -> Iterator[Measured]:
    """Measure capture and scoring of one shape, and the landscape of one that fits twice."""
    begin_peak(device)
    model = network(config, device)
    yield captured(name, config, model, device, *(TINY_CAPTURE if tiny else CAPTURE))
    for share in (True, False):
        yield scored(name, config, model, device, share, *(TINY_SCORING if tiny else SCORING))
    if name == "OPT-1.3B":
        yield surveyed(name, config, model, device, TINY_RESOLUTION if tiny else RESOLUTION)


def captured(
    name: str,
    config: PreTrainedConfig,
    model: PreTrainedModel,
    device: str,
    num_rows: int,
    length: int,
    max_tokens: int,
) -> Measured:
    """Capture of all states of rows of one length."""
    rows = [Example(ids, (), number) for number, ids in enumerate(random_ids(config, num_rows, length))]
    seconds = timed(device, lambda: capture_states(model, rows, max_tokens=max_tokens))
    shape, own = sizes(config), sorted_passes(Lengths.of([(length, 0)] * num_rows), CONTEXT, max_tokens)
    flops = totals.forward_flops(shape, Depth.whole(shape.num_blocks), own)
    expected = totals.forward_bytes(shape, shape.parameters, own, "bfloat16")
    return Measured(
        "capture of all states",
        name,
        own.tokens / seconds,
        "tokens",
        flops,
        share_of_peak(flops, seconds, device),
        peak_memory(device),
        expected,
    )


def scored(
    name: str,
    config: PreTrainedConfig,
    model: PreTrainedModel,
    device: str,
    share: bool,
    num_prompts: int,
    prompt: int,
    num_choices: int,
    choice: int,
    max_tokens: int,
) -> Measured:
    """Scoring of choices behind prompts."""
    begin_peak(device)
    requests = [
        (ids[:prompt], answer)
        for ids in random_ids(config, num_prompts, prompt)
        for answer in random_ids(config, num_choices, choice, seed=sum(ids))
    ]
    run = lambda: score_tokens(model, requests, CONTEXT, max_tokens, share_prompts=share)  # noqa: E731
    seconds = timed(device, run)
    shape = sizes(config)
    lengths = Lengths.of([(prompt + choice - 1, choice)] * len(requests), per_prompt=num_choices)
    own = (
        scoring_passes(lengths, CONTEXT, max_tokens, shape.limits, shape.longest_tree)
        if share
        else sorted_passes(lengths, CONTEXT, max_tokens)
    )
    flops = totals.forward_flops(shape, Depth.whole(shape.num_blocks), own)
    return Measured(
        f"scoring, prompts {'shared' if share else 'run for every choice'}",
        name,
        num_prompts / seconds,
        "rows",
        flops,
        share_of_peak(flops, seconds, device),
        peak_memory(device),
        totals.forward_bytes(shape, shape.parameters, own, "bfloat16"),
    )


def surveyed(name: str, config: PreTrainedConfig, model: PreTrainedModel, device: str, resolution: int) -> Measured:
    """A plane on which the last four blocks change."""
    begin_peak(device)
    others = [changed(model, seed) for seed in (1, 2)]
    mixture = Mixture(model, {}, [differences(model, other, "x") for other in others])
    values = grid(-1, 1, resolution)
    places = [(values[i], values[j]) for i, j in plane_order(mixture, values, values)]
    requests = [(ids[:-2], ids[-2:]) for ids in random_ids(config, 8, 32)]

    def measure(each: Any) -> Point:
        return Point(-sum(value for value, _ in score_tokens(each, requests, CONTEXT, 8192, share_prompts=False)), 0.0)

    began = time.perf_counter()
    survey(mixture, places, measure)
    wait(device)
    seconds = time.perf_counter() - began
    note = "8 rows of 32 tokens, four blocks change"
    return Measured("landscape", name, len(places) / seconds, "points", peak_memory=peak_memory(device), note=note)


def changed(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The same model with other weights in its last four blocks."""
    made, blocks = aliased(model), get_blocks(model)
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    for index in range(len(blocks) - 4, len(blocks)):
        block = get_blocks(made)[index]
        for path, parameter in list(block.named_parameters()):
            owner, _, leaf = path.rpartition(".")
            noise = torch.randn(parameter.shape, generator=generator, device=parameter.device, dtype=torch.float32)
            value = parameter + 0.01 * noise.to(parameter.dtype)
            setattr(block.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))
    return made


def similarity(device: str, tiny: bool) -> Measured:
    """Linear CKA of all states of a 70B model."""
    begin_peak(device)
    num_states, num_rows, width = TINY_SIMILARITY if tiny else SIMILARITY
    states = torch.randn(num_states, num_rows, width, device=device)
    seconds = timed(device, lambda: linear_cka(states))
    flops = 2.0 * num_states * num_rows**2 * width
    note = f"{num_states} states of {num_rows} rows, width {width}"
    memory = peak_memory(device)
    return Measured("linear CKA", "70B", num_states / seconds, "states", flops, peak_memory=memory, note=note)


def timed(device: str, run: Callable[[], Any]) -> float:
    """Seconds of a run, after one that chooses kernels."""
    run()
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def random_ids(config: PreTrainedConfig, num_rows: int, length: int, seed: int = 1) -> list[tuple[int, ...]]:
    """Rows of random token ids."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, config.vocab_size, (num_rows, length), generator=generator)
    return [tuple(row) for row in ids.tolist()]
