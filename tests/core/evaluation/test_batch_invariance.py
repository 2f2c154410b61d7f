"""A row's numbers are those that it has alone: in every batch, order and size of a pass, and on every family."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.llama import LlamaConfig
from transformers.models.phi3 import Phi3Config

from tasks.core.batching import Example, lengths_of, token_batches
from tasks.core.blocks.length_limits import NO_LIMITS, LengthLimits, length_limits
from tasks.core.blocks.surgery import with_layout
from tasks.core.capturing import capture_states
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.evaluation.proxies import measure_proxies
from tasks.core.plan.layout import fixed_plan
from tasks.core.study.importance import deletions, row_losses
from tasks.core.study.lens import make_lens, measure_curves
from tasks.core.study.lens_training import TrainedLens
from tasks.core.study.predictions import functional_distances
from tasks.core.tuning.distilling import FrozenBlocks
from tasks.core.tuning.dividing import Division
from tasks.core.tuning.losses import LossModule
from tasks.core.tuning.parallel import Team
from tasks.core.tuning.settings import TrainSettings
from tasks.core.tuning.train import train
from tasks.core.tuning.trainable import TunedBlocks
from tasks.models.families.known import failed_operations
from tests.core import more_families
from tests.core.tiny_models import COMMON, FAMILIES, LLAMA_LIKE, MIXED_WINDOWS, NUM_BLOCKS, tiny_model, token_ids

LIMIT = 12
CONTEXT = 64
BOUND = 1e-5
# In float32 these round more than the bound: small differences of large numbers, and decays summed up in chunks.
IN_FLOAT64 = ("gemma4_text", "qwen3_next")
# In no order of length, on both sides of the limit, and right at it with the last token and without.
LENGTHS = [(3, 2), (14, 3), (9, 3), (25, 2), (10, 3)]

LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 9.0, 27.0]}
LONGROPE |= {"original_max_position_embeddings": LIMIT, "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
ROTARY: dict[str, Callable[[], PreTrainedConfig]] = {
    "longrope": lambda: Phi3Config(**LLAMA_LIKE, original_max_position_embeddings=LIMIT, rope_parameters=LONGROPE),
    "dynamic": lambda: LlamaConfig(**LLAMA_LIKE | {"max_position_embeddings": LIMIT}, rope_parameters=DYNAMIC),
    # One entry for each kind of attention.
    "longrope of some blocks": lambda: Gemma3TextConfig(
        **MIXED_WINDOWS,
        head_dim=8,
        query_pre_attn_scalar=8,
        rope_parameters={"full_attention": LONGROPE, "sliding_attention": PLAIN},
    ),
    "dynamic of some blocks": lambda: Gemma3TextConfig(
        **MIXED_WINDOWS | {"max_position_embeddings": LIMIT},
        head_dim=8,
        query_pre_attn_scalar=8,
        rope_parameters={"full_attention": DYNAMIC, "sliding_attention": PLAIN},
    ),
}
# What is exact in each family of what is measured here; the product refuses the rest.
# `FAMILIES` has the language model of Gemma 3 alone under the name of the whole one.
WRAPPED = "gemma3 with images"
EVERY = {
    family: exact
    for family in (*FAMILIES, *ROTARY, *more_families.SIZES, WRAPPED)
    if (exact := {"capture", "scoring", "tuning"} - (failed_operations(family) or {}).keys())
}


def network(name: str) -> PreTrainedModel:
    """A random model in evaluation mode, of which every parameter wants a gradient."""
    if name not in (*ROTARY, WRAPPED):
        model = tiny_model(name).requires_grad_(True)
        if name in IN_FLOAT64:
            # The grouped product of experts knows no float64.
            model.set_experts_implementation("eager")
            model.double()
        return model
    config = more_families.make_config("gemma3") if name == WRAPPED else ROTARY[name]()
    model, generator = AutoModelForCausalLM.from_config(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise if parameter.dim() > 1 else 1 + noise)
    return model.eval()


@functools.cache
def rows() -> list[Example]:
    ids = iter(token_ids(1, sum(map(sum, LENGTHS)))[0].tolist())
    take = lambda count: tuple(next(ids) for _ in range(count))  # noqa: E731
    return [Example(take(before), take(after), row) for row, (before, after) in enumerate(LENGTHS)]


def likelihoods(model: PreTrainedModel, examples: list[Example], max_tokens: int) -> Tensor:
    """By row number."""
    found = score_tokens(model, [(row.prompt_ids, row.answer_ids) for row in examples], CONTEXT, max_tokens)
    values = {row.row: value for row, (value, _) in zip(examples, found, strict=True)}
    return torch.tensor([values[row] for row in sorted(values)])


def gradients(model: PreTrainedModel, examples: list[Example], max_tokens: int) -> list[Tensor]:
    """Of one step over these rows, cut as tuning cuts them."""
    model.zero_grad()
    loss, limits = LossModule(model), length_limits(model.config)
    for batch, _ in Division(Team(), max_tokens, 0, torch.device("cpu"), limits).passes(examples):
        loss(batch)[0].backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference, of the largest number."""
    largest = max(float(tensor.abs().max()) for tensor in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / largest


@pytest.mark.parametrize("family", EVERY)
def test_a_row_has_the_numbers_that_it_has_alone(family: str) -> None:
    model = network(family)
    # Three rows are enough where nothing depends on a length.
    examples = rows() if family in ROTARY else rows()[:3]
    if "scoring" in EVERY[family]:
        # Of a model that no row has been through; the others only have this one.
        alone = torch.cat([likelihoods(network(family) if family in ROTARY else model, [row], 1) for row in examples])
        for order, max_tokens in ((examples, 1000), (examples[::-1], 30)):
            assert (likelihoods(model, order, max_tokens) - alone).abs().max() < BOUND
    if "capture" in EVERY[family]:
        each, together = (capture_states(model, examples, max_tokens=size) for size in (1, 1000))
        for name in ("pooled", "last", "block_influence"):
            assert apart([getattr(together, name)], [getattr(each, name)]) < BOUND
    if "tuning" in EVERY[family]:
        assert apart(gradients(model, examples, 1000), gradients(model, examples, 1)) < BOUND


def test_families_of_which_only_a_part_is_exact_are_measured_in_that_part() -> None:
    assert (EVERY["jamba"], EVERY["gemma3n_text"]) == ({"capture", "scoring"}, {"scoring"})
    assert "rwkv" not in EVERY


@pytest.mark.parametrize("family", ROTARY)
def test_without_the_limits_the_numbers_are_others(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above would not see on a model whose factors differ too little."""
    alone = torch.cat([likelihoods(network(family), [row], 1) for row in rows()])
    monkeypatch.setattr("tasks.core.evaluation.likelihoods.length_limits", lambda _: NO_LIMITS)
    assert (likelihoods(network(family), rows(), 1000) - alone).abs().max() > 0.05
    monkeypatch.undo()
    monkeypatch.setattr("tasks.core.blocks.partial_passes.forget_lengths", lambda _: None)
    model = network(family)
    forgets = torch.cat([likelihoods(model, [row], 1) for row in (rows()[3], rows()[1], rows()[2])])
    expected = torch.cat([likelihoods(network(family), [row], 1) for row in (rows()[3], rows()[1], rows()[2])])
    assert ((forgets - expected).abs().max() > 0.01) == family.startswith("dynamic")


def test_limits_are_read_from_every_kind_of_config() -> None:
    found = {name: length_limits(config()) for name, config in ROTARY.items()}
    switch, grow = LengthLimits(switches=frozenset({LIMIT})), LengthLimits(grows=frozenset({LIMIT}))
    assert found == {
        "longrope": switch,
        "dynamic": grow,
        "longrope of some blocks": switch,
        "dynamic of some blocks": grow,
    }
    assert not any(length_limits(config()) for config in FAMILIES.values())
    # Static scalings are the same at every length.
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    assert not any(length_limits(LlamaConfig(**LLAMA_LIKE, rope_parameters=given)) for given in (yarn, linear))
    assert not length_limits(LlamaConfig(**COMMON))
    assert (switch | grow).group(LIMIT) == (switch | grow).group(1) != (switch | grow).group(LIMIT + 1)
    assert switch.group(LIMIT + 1) == switch.group(99)
    assert grow.group(LIMIT + 1) < grow.group(99)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=50),
    st.integers(1, 200),
    st.builds(LengthLimits, st.frozensets(st.integers(1, 40)), st.frozensets(st.integers(1, 40))),
)
def test_batches_do_not_mix_groups(lengths: list[int], max_tokens: int, limits: LengthLimits) -> None:
    examples = [Example((1,) * length, ()) for length in lengths]
    batches = token_batches(lengths_of(examples), max_tokens, limits)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len({limits.group(lengths[index]) for index in batch}) == 1
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= max_tokens


PLAN = fixed_plan(NUM_BLOCKS, (0, 2, 3, 5), (0, 3))
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "num_steps": 2, "batch_size": len(LENGTHS), "eval_steps": 1}


def tuned(family: str, kind: str, max_tokens: int) -> list[dict[str, float]]:
    """Loss, gradient norm and validation loss of two steps over all rows."""
    full, seen = network(family).requires_grad_(False), list[dict[str, float]]()
    made = {
        "tuned blocks": lambda: TunedBlocks(with_layout(full, PLAN), PLAN),
        "frozen blocks": lambda: FrozenBlocks(with_layout(full, PLAN), PLAN, network(family), 5.0),
        "lens": lambda: TrainedLens(full),
    }[kind]()
    for parameter in made.parameters():
        parameter.requires_grad_(True)
    settings = TrainSettings(**SETTINGS, max_tokens=max_tokens)
    train(made, rows(), rows()[:3], settings, on_metrics=lambda _, values: seen.append(values))
    names = ("loss", "gradient_norm", "validation_loss")
    return [{name: values[name] for name in names} for values in seen]


@pytest.mark.parametrize("kind", ["tuned blocks", "frozen blocks", "lens"])
@pytest.mark.parametrize("family", ["longrope", "dynamic"])
def test_a_step_is_of_the_same_rows_with_the_same_weights(family: str, kind: str) -> None:
    for found, expected in zip(tuned(family, kind, 1000), tuned(family, kind, 1), strict=True):
        assert found == pytest.approx(expected, rel=BOUND)


def test_a_teachers_limits_count_too() -> None:
    losses = []
    for max_tokens in (1, 1000):
        trained = FrozenBlocks(with_layout(tiny_model("phi3"), PLAN), PLAN, network("longrope"), 5.0)
        settings = TrainSettings(**SETTINGS | {"num_steps": 1}, max_tokens=max_tokens)
        losses.append(train(trained, rows(), rows()[:3], settings).final_loss)
    assert losses[0] == pytest.approx(losses[1], rel=BOUND)


@pytest.mark.parametrize("family", ["longrope", "dynamic"])
def test_every_analysis_reads_rows_as_they_are_alone(family: str) -> None:
    model = network(family).requires_grad_(False)
    lens, emulator = make_lens(model), with_layout(model, PLAN)
    for small, large in (
        [row_losses(model, deletions(model), rows(), max_length=CONTEXT, max_tokens=n).varied for n in (1, 1000)],
        [functional_distances(model, lens, rows(), 12, max_tokens=n).means()["kl"] for n in (1, 1000)],
        [measure_curves(model, lens, rows(), max_tokens=n).kl for n in (1, 1000)],
    ):
        torch.testing.assert_close(large, small, rtol=1e-4, atol=1e-5)
    one, other = (measure_proxies(model, emulator, PLAN, rows(), max_tokens=n) for n in (1, 1000))
    assert other.kl == pytest.approx(one.kl, rel=BOUND)
    assert other.gradient_cosine == pytest.approx(one.gradient_cosine, abs=BOUND)
    assert other.block_state_error == pytest.approx(one.block_state_error, rel=BOUND)


def test_a_pass_is_as_the_first_one_after_longer_ones() -> None:
    """Dynamic NTK keeps the frequencies of the longest pass, for rows above the limit and right at it."""
    model = network("dynamic")
    assert int(model.model.rotary_emb.max_seq_len_cached) == LIMIT
    first = network("dynamic").model.rotary_emb.inv_freq
    likelihoods(model, [rows()[3]], 1)
    assert int(model.model.rotary_emb.max_seq_len_cached) > LIMIT
    # As many input tokens as the limit, with which the module itself would not go back.
    prompt = rows()[2].prompt_ids + rows()[2].answer_ids
    likelihoods(model, [Example(prompt, (5,))], 1)
    assert torch.equal(model.model.rotary_emb.inv_freq, first)
