"""Compressed emulator folders of every family: tuned blocks stay, frozen ones change, all ways of loading agree."""

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from tasks.core.batching import Example, collate
from tasks.core.blocks.factored import FactoredLinear, linear_shapes
from tasks.core.blocks.feed_forward import feed_forward_channels
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.compression.settings import Compression
from tasks.core.costs.depths import Depth
from tasks.core.costs.shapes import shape_of
from tasks.core.errors import InputError
from tasks.core.gradot.choosing import Linear, kept_channels
from tasks.core.gradot.observing import observe
from tasks.core.plan.layout import fixed_plan
from tasks.models.emulators.compressed_emulator import write_compressed
from tasks.models.emulators.emulator import load_emulator, save_expanded, write_emulator
from tasks.models.emulators.gradient_preserving_weights import Sensitivities
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, cached_logits, load_plain, tiny_model, token_ids

PLAN = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3), share="all")
FROZEN, TUNED = (1, 3), (0, 2)  # positions among the kept blocks
METHODS = [
    Compression("prune", ratio=0.3),
    Compression("quantise", bits=3),
    Compression("low_rank", rank=0.3, rank_choice="sampling"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny_model(request.param)
    model.save_pretrained(folder / "model")
    write_emulator(folder / "model", PLAN, folder / "emulator")
    return model, folder / "emulator"


@pytest.fixture
def emulator(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    write_emulator(tmp_path / "model", PLAN, tmp_path / "emulator")
    return tmp_path / "emulator"


def position(name: str) -> int | None:
    """The block that a name is in."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def flops(model: PreTrainedModel) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(token_ids(), use_cache=False)
    return counter.get_total_flops()


@pytest.mark.parametrize("how", METHODS, ids=lambda how: f"{how.method}-{how.rank_choice}")
def test_only_frozen_weights_change_and_all_ways_of_loading_agree(
    family: tuple[PreTrainedModel, Path], how: Compression, tmp_path: Path
) -> None:
    _, folder = family
    tally = write_compressed(folder, how, tmp_path / "out")
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out"))
    for name, tensor in before.items():
        changed = not torch.equal(after[name], tensor) if after[name].shape == tensor.shape else True
        # Every matrix of these blocks is a weight: vectors stay in any frozen block, everything stays in tuned ones.
        assert changed == (position(name) in FROZEN and tensor.dim() > 1), name
    assert tally.errors
    assert all(0 < error < 1.5 for error in tally.errors)
    emulator = load_emulator(tmp_path / "out")
    save_expanded(tmp_path / "out", tmp_path / "expanded")
    assert cached_logits(load_plain(tmp_path / "expanded")) == pytest.approx(cached_logits(emulator), abs=2e-3)


def test_full_rank_is_the_dense_emulator(family: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, folder = family
    widest = max(min(s.num_in, s.num_out) for block in get_blocks(model) for s in linear_shapes(block).values())
    write_compressed(folder, Compression("low_rank", rank=widest), tmp_path / "out")
    assert torch.equal(cached_logits(load_emulator(tmp_path / "out")), cached_logits(with_layout(model, PLAN)))
    assert torch.equal(cached_logits(load_plain(tmp_path / "out")), cached_logits(load_plain(folder)))


def test_a_rank_that_makes_two_factors_larger_is_their_product(
    family: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    _, folder = family
    tally = write_compressed(folder, Compression("low_rank", rank=0.99), tmp_path / "out")
    assert tally.num_factored == 0
    cheaper = load_plain(tmp_path / "out")  # nothing is in two factors
    assert flops(cheaper) == flops(load_plain(folder))
    shapes = linear_shapes(get_blocks(cheaper)[1])
    for path, shape in shapes.items():
        weight = get_blocks(cheaper)[1].get_submodule(path).weight
        full = min(shape.num_in, shape.num_out)
        assert int(torch.linalg.matrix_rank(weight, rtol=1e-5)) == int(0.99 * full) < full


def test_flops_and_bytes_fall_as_predicted(family: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, folder = family
    rank = 3
    write_compressed(folder, Compression("low_rank", rank=rank), tmp_path / "out")
    saved = {
        block: sum(s.num_in * s.num_out - rank * (s.num_in + s.num_out) for s in linear_shapes(module).values())
        for block, module in enumerate(get_blocks(model))
    }
    num_runs = {block: [source for source, _ in PLAN.layout].count(block) for block in PLAN.frozen}
    predicted = 2 * token_ids().numel() * sum(saved[block] * num_runs[block] for block in PLAN.frozen)
    assert flops(load_emulator(folder)) - flops(load_emulator(tmp_path / "out")) == predicted
    entries = [
        sum(prod(tensor.shape) for tensor in load_file(place / "model.safetensors").values())
        for place in (folder, tmp_path / "out")
    ]
    assert entries[0] - entries[1] == sum(saved[block] for block in PLAN.frozen)


def test_shared_blocks_stay_tied_and_biases_stay(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path / "model")
    write_emulator(tmp_path / "model", PLAN, tmp_path / "emulator")
    write_compressed(tmp_path / "emulator", Compression("low_rank", rank=3), tmp_path / "out")
    blocks = get_blocks(load_emulator(tmp_path / "out"))
    sources = [source for source, _ in PLAN.layout]
    twins = [blocks[place].mlp.c_fc for place, source in enumerate(sources) if source == 4]
    assert len(twins) == 2
    assert all(isinstance(twin, FactoredLinear) for twin in twins)
    assert twins[0] is not twins[1]
    assert all(a is b for a, b in zip(twins[0].parameters(), twins[1].parameters(), strict=True))
    assert torch.equal(twins[0].bias, get_blocks(load_plain(tmp_path / "emulator"))[3].mlp.c_fc.bias)
    assert not any(parameter.requires_grad for parameter in twins[0].parameters())


@pytest.mark.parametrize("family_name", ["gpt2", "llama"])
def test_plain_loading_of_factors_fails_and_makes_nothing_up(family_name: str, tmp_path: Path) -> None:
    tiny_model(family_name).save_pretrained(tmp_path / "model")
    write_emulator(tmp_path / "model", PLAN, tmp_path / "emulator")
    write_compressed(tmp_path / "emulator", Compression("low_rank", rank=3), tmp_path / "out")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    if family_name == "llama":
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            LlamaForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_number_formats_of_disk_and_memory(dtype: str, tmp_path: Path) -> None:
    narrow = getattr(torch, dtype)
    tiny_model("llama").to(narrow).save_pretrained(tmp_path / "model")
    write_emulator(tmp_path / "model", PLAN, tmp_path / "emulator")
    write_compressed(tmp_path / "emulator", Compression("low_rank", rank=3), tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {narrow}
    assert {parameter.dtype for parameter in load_emulator(tmp_path / "out").parameters()} == {narrow}
    wide = load_emulator(tmp_path / "out", dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
    assert not wide.training


def test_the_same_again_is_the_same_file(emulator: Path, tmp_path: Path) -> None:
    how = Compression("low_rank", rank=3, rank_choice="sampling", seed=2)
    for name in ("one", "two"):
        write_compressed(emulator, how, tmp_path / name)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Compression("low_rank", rank=33), "no weight of a block has a rank above 32"),
        (Compression("low_rank", rank=0.01), "that is rank 0; take at least"),
    ],
)
def test_impossible_ranks_are_refused(emulator: Path, tmp_path: Path, how: Compression, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_compressed(emulator, how, tmp_path / "out")


def test_a_plan_without_frozen_blocks_is_refused(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    write_emulator(tmp_path / "model", fixed_plan(NUM_BLOCKS, (0, 5), (0, 5)), tmp_path / "emulator")
    with pytest.raises(InputError, match="the plan tunes every kept block"):
        write_compressed(tmp_path / "emulator", Compression("prune", ratio=0.5), tmp_path / "out")


def test_half_a_pair_of_factors_is_refused(emulator: Path, tmp_path: Path) -> None:
    from tasks.models.tensor_files import stored_tensors, write_tensors

    write_compressed(emulator, Compression("low_rank", rank=3), tmp_path / "out")
    tensors = stored_tensors(tmp_path / "out")
    lost = next(name for name in tensors if name.endswith("weight_inner")).removesuffix("_inner")
    tensors.pop(lost)
    (tmp_path / "less").mkdir()
    write_tensors(list(tensors.items()), tmp_path / "less")
    (tmp_path / "less/model.safetensors").rename(tmp_path / "out/model.safetensors")
    with pytest.raises(InputError, match="lack the outer one"):
        load_emulator(tmp_path / "out")


def test_of_attention_alone(family: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    """ScaleOT's selective rank compression: feed-forward parts stay, and the estimate counts what is stored."""
    model, folder = family
    how = Compression("low_rank", rank=0.25, parts="attention")
    if model.config.model_type == "phi3":
        # Two of its feed-forward matrices are one, as its queries, keys and values are.
        with pytest.raises(InputError, match=r"from which the attention could be told apart: choose compress\.parts"):
            write_compressed(folder, how, tmp_path / "out")
        return
    tally = write_compressed(folder, how, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(folder / "model.safetensors")
    factored = {name.removesuffix("_inner") for name in stored if name.endswith(".weight_inner")}
    assert len(factored) == tally.num_factored > 0
    assert all("att" in name.lower() for name in factored)
    for name, tensor in before.items():
        if name not in factored:
            assert torch.equal(stored[name], tensor), name
    shape = shape_of(model.config, 64)
    depth = replace(Depth.of(PLAN), rank=how.rank, attention_only=True)
    saved = sum(shape.blocks[source].parameters - depth.stored(shape, source) for source in PLAN.frozen)
    numbers = [sum(tensor.numel() for tensor in tensors.values()) for tensors in (before, stored)]
    assert numbers[0] - numbers[1] == saved
    assert cached_logits(load_emulator(tmp_path / "out")).isfinite().all()


def sensitivities(model: PreTrainedModel) -> Sensitivities:
    """Evidence from an emulator of `PLAN` of this model."""
    emulator = with_layout(model, PLAN)
    positions = {source: [at for at, (each, _) in enumerate(PLAN.layout) if each == source] for source in PLAN.frozen}
    channels = feed_forward_channels(emulator, [first for first, *_ in positions.values()])
    places = {
        (source, path): [(position, path) for position in at]
        for source, at in positions.items()
        for path in linear_shapes(get_blocks(model)[source])
    }
    rows = [Example((3, 4, 5, 6, 7), (8, 9), 0), Example((10, 11), (12, 13, 14), 1)]
    seen = observe(emulator.requires_grad_(False), places, [collate(rows, 0)])
    return Sensitivities({source: channels[first] for source, (first, *_) in positions.items()}, seen)


def require_the_best_channels(model: PreTrainedModel, emulator: Any, seen: Sensitivities, stored: int) -> None:
    """Check that all matrices around the channels of a block keep the same ones, those of the best scores."""
    source = PLAN.kept[stored]
    position = [each for each, _ in PLAN.layout].index(source)
    before, after = get_blocks(model)[source], get_blocks(emulator)[position]
    channels, shapes = seen.channels[source], linear_shapes(before)

    def linear(path: str) -> Linear:
        module = before.get_submodule(path)
        weight = module.weight.detach()
        bias = getattr(module, "bias", None)
        return Linear(
            weight.T if shapes[path].is_transposed else weight,
            None if bias is None else bias.detach(),
            seen.observed[source, path],
        )

    into, out = [linear(path) for path in channels.into], linear(channels.out)
    kept = kept_channels(into, out, channels.num_channels // 2, GRADOT.loss_weight)
    for path in channels.paths:
        found = after.get_submodule(path).weight.detach()
        found = found.T if shapes[path].is_transposed else found
        assert torch.equal(found, linear(path).weight.index_select(int(path == channels.out), kept))


GRADOT = Compression("gradot", rank=0.3, channels=0.5)


def test_gradot_makes_frozen_blocks_smaller_and_all_ways_of_loading_agree(
    family: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    model, folder = family
    if model.config.model_type == "phi3":
        # Two of its matrices are one.
        with pytest.raises(InputError, match="no feed-forward part"):
            sensitivities(model)
        return
    seen = sensitivities(model)
    tally = write_compressed(folder, GRADOT, tmp_path / "out", seen)
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out"))
    around = {path for channels in seen.channels.values() for path in channels.paths}
    for name, tensor in before.items():
        block = position(name)
        if block not in FROZEN:
            assert torch.equal(after[name], tensor)
            continue
        path = name.partition(f".{block}.")[2].rpartition(".")[0]
        is_narrow = path in around and not (path == seen.channels[PLAN.kept[block]].out and name.endswith("bias"))
        assert (after[name].shape != tensor.shape) == (is_narrow or f"{name}_inner" in after)
    count = seen.channels[PLAN.frozen[0]].num_channels // 2
    assert tally.num_channels == len(FROZEN) * count
    assert all(0 < error < 1.5 for error in tally.errors)
    emulator = load_emulator(tmp_path / "out")
    for stored in FROZEN:
        require_the_best_channels(model, emulator, seen, stored)
    save_expanded(tmp_path / "out", tmp_path / "expanded")
    assert cached_logits(load_plain(tmp_path / "expanded")) == pytest.approx(cached_logits(emulator), abs=2e-3)
    with pytest.raises(Exception, match=r"shape|size"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_operations_and_bytes_of_gradot_fall_as_predicted(family: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, folder = family
    if model.config.model_type == "phi3":
        return
    write_compressed(folder, GRADOT, tmp_path / "out", sensitivities(model))
    shape = shape_of(model.config, 16)
    depth = replace(Depth.of(PLAN), rank=GRADOT.rank, channels=GRADOT.channels)
    num_runs = {block: [source for source, _ in PLAN.layout].count(block) for block in PLAN.frozen}
    saved = {block: shape.blocks[block].multiplied - depth.multiplied(shape, block) for block in PLAN.frozen}
    predicted = 2 * token_ids().numel() * sum(saved[block] * num_runs[block] for block in PLAN.frozen)
    assert flops(load_emulator(folder)) - flops(load_emulator(tmp_path / "out")) == predicted
    entries = [
        sum(tensor.numel() for tensor in load_file(place / "model.safetensors").values())
        for place in (folder, tmp_path / "out")
    ]
    # Biases of removed channels are saved too.
    assert entries[0] - entries[1] == sum(
        shape.blocks[block].parameters - depth.stored(shape, block) for block in saved
    )
