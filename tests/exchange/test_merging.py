"""Merges of tunings in files: exact results, every way to send a change back, one dishonest owner among five."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from tasks.artifacts.plan import read_plan, write_plan
from tasks.artifacts.tuning import TUNED_FILE, VARIANT_FILE
from tasks.core.errors import InputError
from tasks.core.merging.method import MergeName, Merging
from tasks.core.plan.layout import Plan, fixed_plan
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.core.tuning.parts import returned_shapes
from tasks.core.tuning.returned import tuned_parameters, validate_returned
from tasks.exchange import merging as merging_module
from tasks.exchange.merging import write_merged
from tasks.models.source import ModelSource
from tasks.models.tensor_files import StoredTensor
from tasks.models.tuned_blocks import read_returned
from tests.tasks.chain import write_model

State = dict[str, torch.Tensor]
PLAN = fixed_plan(6, kept=(0, 2, 3, 5), tuned=(0, 5))


class Model:
    """A tiny model, and tunings of it in folders."""

    def __init__(self, root: Path, dtype: torch.dtype = torch.float32) -> None:
        self.root = root
        self.full, self.source = write_model(root / "model", dtype)
        self.own = {name: tensor.float() for name, tensor in tuned_parameters(self.full, PLAN).items()}

    def tuning(self, name: str, state: State, method: TuningMethod = WHOLE_BLOCKS, plan: Plan = PLAN) -> Path:
        """Write what a tuning returned."""
        folder = self.root / name
        folder.mkdir()
        save_file(state, folder / TUNED_FILE)
        (folder / VARIANT_FILE).write_text(method.to_json())
        write_plan(folder, plan)
        return folder

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> State:
        """Return whole blocks, each tensor plus a change of its shape."""
        return {name: tensor + change(tensor) for name, tensor in self.own.items()}

    def merged(self, folders: list[Path], merging: Merging) -> State:
        """Merge tunings, and read the result."""
        out = self.root / f"merged-{len(list(self.root.iterdir()))}"
        out.mkdir()
        write_merged(self.source, folders, merging, out)
        found = read_returned(out)
        assert (found.plan, found.variant) == (PLAN, WHOLE_BLOCKS)
        return found.tuned


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path)


def noise(seed: int, size: float = 0.01) -> Callable[[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda tensor: size * torch.randn(tensor.shape, generator=generator)


def test_a_weighted_mean_is_exact_at_every_parameter(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging_module, "PART_BYTES", 1000)  # several parts of a tensor
    states = [model.changed(noise(seed)) for seed in range(2)]
    folders = [model.tuning(f"tuning {number}", state) for number, state in enumerate(states)]
    found = model.merged(folders, Merging("mean", (1000, 400)))
    assert found.keys() == model.own.keys()
    for name, tensor in found.items():
        first, second = (state[name].double() for state in states)
        expected = (1000 * first + 400 * second) / 1400
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", ["mean", "median", "ties"])
def test_only_a_few_rows_of_each_tuning_are_in_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch, method: MergeName
) -> None:
    limit, read, sizes = 8000, merging_module.read_entries, list[int]()

    def reading(stored: StoredTensor, begin: int, end: int) -> torch.Tensor:
        sizes.append(end - begin)
        return read(stored, begin, end)

    monkeypatch.setattr(merging_module, "PART_BYTES", limit)
    monkeypatch.setattr(merging_module, "read_entries", reading)
    folders = [model.tuning(str(number), model.changed(noise(number))) for number in range(5)]
    model.merged(folders, Merging(method))
    whole = max(tensor.numel() for tensor in model.own.values())
    # One tuning alone is read in parts of the limit, five of them in parts of a fifth.
    assert max(sizes) <= (limit / 8 if method == "ties" else limit / 8 / 5) < whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["mean", "trimmed-mean", "median"])
def test_equal_tunings_merge_to_themselves_bit_for_bit(tmp_path: Path, dtype: torch.dtype, method: MergeName) -> None:
    model = Model(tmp_path, dtype)
    state = model.changed(noise(0))
    found = model.merged([model.tuning(str(number), state) for number in range(5)], Merging(method))
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_ties_is_the_papers_on_the_whole_vector(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against an implementation on vectors in memory, of tunings that need no clipping."""
    monkeypatch.setattr(merging_module, "PART_BYTES", 1000)
    changes = [torch.randn(sum(each.numel() for each in model.own.values())).double() for _ in range(3)]
    changes = [0.01 * each / each.norm() for each in changes]
    names = sorted(model.own)
    sizes = [model.own[name].numel() for name in names]
    folders = []
    for number, change in enumerate(changes):
        parts = dict(zip(names, change.split(sizes), strict=True))
        state = {name: (model.own[name].double() + parts[name].view_as(model.own[name])).float() for name in names}
        folders.append(model.tuning(str(number), state))
    own = torch.cat([model.own[name].flatten() for name in names]).double()
    real = [
        torch.cat([load_file(each / TUNED_FILE)[name].flatten() for name in names]).double() - own for each in folders
    ]
    kept = []
    for vector in real:
        count = round(0.2 * vector.numel())
        threshold = vector.float().abs().topk(count).values[-1]
        kept.append(torch.where(vector.float().abs() >= threshold, vector, 0.0))
    norms = torch.stack([vector.norm() for vector in real])
    stacked = torch.stack(kept) * (norms.median() / norms).clamp_max(1)[:, None]
    sign = stacked.sum(0).sign()
    agree = stacked.sign() == sign
    expected = own + torch.where(agree, stacked, 0.0).sum(0) / agree.sum(0).clamp_min(1) * (sign != 0)
    found = model.merged(folders, Merging("ties"))
    vector = torch.cat([found[name].flatten() for name in names])
    torch.testing.assert_close(vector, expected.float(), rtol=1e-6, atol=1e-9)


def test_low_rank_tunings_are_merged_as_changes_of_the_matrices(model: Model) -> None:
    method = TuningMethod("lora", lora_rank=3, lora_alpha=7)
    shapes = returned_shapes(model.full, PLAN, method)
    states = [_random(shapes, seed) for seed in range(2)]
    folders = [model.tuning(str(number), state, method) for number, state in enumerate(states)]
    found = model.merged(folders, Merging("mean"))
    each = [validate_returned(state, model.full, PLAN, method) for state in states]
    for name in model.own:
        torch.testing.assert_close(found[name], (each[0][name] + each[1][name]) / 2, rtol=1e-5, atol=1e-7)
    factors = {name: (states[0][name] + states[1][name]) / 2 for name in states[0]}
    averaged = validate_returned(factors, model.full, PLAN, method)
    assert any(not torch.allclose(found[name], averaged[name], atol=1e-3) for name in found), "not as factors"


def test_matrices_of_gpt2_are_transposed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    full = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=6, n_head=2, vocab_size=64, n_positions=32)).eval()
    full.save_pretrained(tmp_path / "model")
    source = ModelSource(
        path=str(tmp_path / "model"), name="gpt2", weights="0" * 64, tokenizer="0" * 64, num_blocks=6, family="gpt2",
        context=32,
    )  # fmt: skip
    method = TuningMethod("lora", lora_rank=2)
    state = _random(returned_shapes(full, PLAN, method), 0)
    folders = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(state, folder / TUNED_FILE)
        (folder / VARIANT_FILE).write_text(method.to_json())
        write_plan(folder, PLAN)
        folders.append(folder)
    (tmp_path / "out").mkdir()
    write_merged(source, folders, Merging("mean"), tmp_path / "out")
    expected = validate_returned(state, full, PLAN, method)
    found = load_file(tmp_path / "out" / TUNED_FILE)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-6) for name in expected)


def test_whole_blocks_factors_and_biases_can_be_merged_together(model: Model) -> None:
    lora, bitfit = TuningMethod("lora", lora_rank=2), TuningMethod("bitfit")
    whole = model.changed(noise(0))
    factors = _random(returned_shapes(model.full, PLAN, lora), 1)
    biases = {name: model.own[name] + 0.5 for name in returned_shapes(model.full, PLAN, bitfit)}
    folders = [model.tuning("a", whole), model.tuning("b", factors, lora), model.tuning("c", biases, bitfit)]
    found = model.merged(folders, Merging("mean"))
    low_rank = validate_returned(factors, model.full, PLAN, lora)
    for name, own in model.own.items():
        changes = [whole[name] - own, low_rank[name] - own, biases.get(name, own) - own]
        torch.testing.assert_close(found[name], own + sum(changes) / 3, rtol=1e-5, atol=1e-6)


def test_adapters_and_other_plans_cannot_be_merged(model: Model) -> None:
    honest = model.tuning("honest", model.changed(noise(0)))
    adapters = TuningMethod("adapter")
    other = model.tuning("adapter", _random(returned_shapes(model.full, PLAN, adapters), 0), adapters)
    with pytest.raises(InputError, match="'adapter' trains cannot be merged"):
        model.merged([honest, other], Merging("mean"))
    plan = fixed_plan(6, kept=(0, 2, 3, 5), tuned=(0, 3))
    elsewhere = model.tuning("elsewhere", model.changed(noise(1)), plan=plan)
    assert read_plan(elsewhere) == plan
    with pytest.raises(InputError, match="several plans"):
        model.merged([honest, elsewhere], Merging("mean"))


@pytest.mark.parametrize("bad", ["scaled", "random", "flipped"])
def test_one_dishonest_owner_of_five_moves_the_mean_and_not_the_robust_merges(model: Model, bad: str) -> None:
    """Four honest tunings: a change in common, and different noise. Distances in norms of the change in common."""
    common = {name: noise(7)(tensor) for name, tensor in model.own.items()}
    honest = [_honest(model, common, seed) for seed in range(5)]
    dishonest = {
        "scaled": lambda own, change: own + 100 * change,
        "random": lambda own, change: own + noise(99, 0.5)(own),
        "flipped": lambda own, change: own - 10 * change,
    }[bad]
    spoilt = {name: dishonest(own, honest[4][name] - own) for name, own in model.own.items()}
    folders = [model.tuning(f"honest {number}", state) for number, state in enumerate(honest)]
    others = [*folders[:4], model.tuning("dishonest", spoilt)]
    clean = _vector(model.merged(folders, Merging("mean")))
    size = float((clean - _vector(model.own)).norm())

    def moved(merging: Merging) -> float:
        return float((_vector(model.merged(others, merging)) - clean).norm()) / size

    assert moved(Merging("mean")) > 1.5
    assert moved(Merging("trimmed-mean")) < 0.3
    assert moved(Merging("median")) < 0.3
    # TIES bounds a tuning's influence by that of an honest one, and does not take it away.
    assert moved(Merging("ties")) < 1


def _honest(model: Model, common: State, seed: int) -> State:
    own = noise(seed, 0.003)
    return {name: tensor + common[name] + own(tensor) for name, tensor in model.own.items()}


def _vector(state: State) -> torch.Tensor:
    return torch.cat([state[name].flatten() for name in sorted(state)]).double()


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
