"""Weights: every number against torch on the loaded model, for every family, and against a tuning."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.blocks.surgery import get_blocks
from tasks.core.errors import InputError
from tasks.engine.runtime import Runtime
from tasks.models import block_matrices
from tasks.models.source import ModelSource
from tasks.study.weight_distances import weights
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model
from tests.tasks.chain import Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("weights"))


def source(folder: Path, **changes: object) -> ModelSource:
    """Weights are all that the stage reads, so no tokenizer lies beside them."""
    facts = {"path": str(folder), "name": folder.name, "weights": folder.name, "tokenizer": "none"}
    return ModelSource(**facts | {"num_blocks": NUM_BLOCKS, "family": "any", "context": 64} | changes)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_every_family(family: str, tmp_path: Path, runtime: Runtime, own: object) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path / family)
    ref = weights.run(runtime, model=source(tmp_path / family))
    found = load_file(runtime.open_store().open(ref) / "weights.safetensors")
    blocks = [dict(block.named_parameters()) for block in get_blocks(model)]
    expected = {name: [block[name].double() for block in blocks] for name in blocks[0] if blocks[0][name].dim() > 1}
    assert ref.summary["roles"] == sorted(expected)
    assert len(expected) >= 4
    for row, name in enumerate(ref.summary["roles"]):
        matrices = torch.stack(expected[name])
        whole = torch.linalg.matrix_norm(matrices.unsqueeze(0) - matrices.unsqueeze(1))
        torch.testing.assert_close(found["distance"][row].double(), whole, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["norm"][row].double(), torch.linalg.matrix_norm(matrices), rtol=1e-5, atol=0)
        norms = torch.linalg.matrix_norm(matrices).square()
        relative = whole / (norms.unsqueeze(0) + norms.unsqueeze(1)).sqrt()
        torch.testing.assert_close(found["relative"][row].double(), relative, rtol=1e-5, atol=1e-5)
        variance = matrices.flatten(1).var(dim=1, correction=0)
        torch.testing.assert_close(found["variance"][row].double(), variance, rtol=1e-5, atol=0)
    assert ref.summary["num_entries"] == sum(tensor.numel() for tensors in expected.values() for tensor in tensors)


def test_how_much_is_read_at_a_time_changes_nothing(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = block_matrices.read_roles(Path(chain.model.path), chain.model.num_blocks)
    whole = torch.cat([part for role in roles for part in role.parts()], dim=1)
    monkeypatch.setattr(block_matrices, "PART_BYTES", 1000)
    parts = [part for role in roles for part in role.parts()]
    assert max(part.numel() for part in parts) * 8 <= 1000
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_tuned_blocks_moved_and_the_others_did_not(chain: Chain) -> None:
    tuned, plan = chain.tune(), chain.read_plan(chain.plan)
    ref = weights.run(chain.runtime, model=chain.model, tuned=tuned)
    change, after = chain.tensors(ref, "weights")["change"], chain.tensors(tuned, "tuned")
    total = 0.0
    for row, name in enumerate(ref.summary["roles"]):
        for block, layer in enumerate(get_blocks(chain.full)):
            expected = 0.0
            if block in plan.tuned:
                expected = float((after[f"{block}.{name}"] - layer.get_parameter(name).detach()).norm())
                assert expected > 0
            assert change[row, block].item() == pytest.approx(expected, rel=1e-4)
            total += expected**2
    norms = chain.tensors(ref, "weights")["norm"].norm().item()
    assert ref.summary["relative_change"] == pytest.approx(total**0.5 / norms, rel=1e-4)


def test_a_model_against_itself_did_not_move(chain: Chain) -> None:
    ref = weights.run(chain.runtime, model=chain.model, other=chain.model)
    assert not chain.tensors(ref, "weights")["change"].any()
    assert ref.summary["relative_change"] == 0.0


def test_a_matrix_that_some_blocks_lack_or_have_in_another_shape(tmp_path: Path, runtime: Runtime, own: object) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    entry = torch.arange(6.0).reshape(2, 3)
    tensors = {"layers.0.a.weight": entry, "layers.1.a.weight": entry + 1, "layers.2.a.weight": entry.T.contiguous()}
    tensors |= {"layers.1.b.weight": entry.clone(), "layers.0.bias": torch.zeros(3)}
    save_file(tensors, folder / "model.safetensors")
    ref = weights.run(runtime, model=source(folder, num_blocks=3))
    found = load_file(runtime.open_store().open(ref) / "weights.safetensors")
    assert ref.summary["roles"] == ["a.weight", "b.weight"]
    assert found["distance"][0, 0, 1].item() == pytest.approx(6**0.5)
    assert found["distance"][0, :2, 2].isnan().all()
    assert found["norm"][1].isnan().tolist() == [True, False, True]


def test_where_no_two_blocks_can_be_compared_no_distance_is_said(tmp_path: Path, runtime: Runtime, own: object) -> None:
    folder = tmp_path / "unlike"
    folder.mkdir()
    tensors = {"layers.0.a.weight": torch.ones(2, 3), "layers.1.a.weight": torch.ones(3, 2)}
    save_file(tensors, folder / "model.safetensors")
    assert "mean_relative_distance" not in weights.run(runtime, model=source(folder, num_blocks=2)).summary


def test_broken_weights_are_named(chain: Chain, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    chain.full.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.decoder.layers.4.fc1.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    count = chain.num_artifacts("weights")
    with pytest.raises(InputError, match=r"fc1\.weight of block 4 holds NaN"):
        weights.run(chain.runtime, model=source(folder))
    with pytest.raises(InputError, match=r"fc1\.weight of block 4 holds NaN or infinite values after the change"):
        weights.run(chain.runtime, model=chain.model, other=source(folder))
    assert chain.num_artifacts("weights") == count


def test_what_cannot_be_compared(chain: Chain, tmp_path: Path) -> None:
    both = {"other": chain.model, "tuned": chain.tune()}
    with pytest.raises(InputError, match="not with both"):
        weights.run(chain.runtime, model=chain.model, **both)
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    with pytest.raises(InputError, match=r"llama has no .* of block 0"):
        weights.run(chain.runtime, model=chain.model, other=source(tmp_path / "llama"))
    with pytest.raises(InputError, match="has 6 blocks, few has 5"):
        weights.run(chain.runtime, model=chain.model, other=source(tmp_path / "few", num_blocks=5))
    wide = chain.saved("wide")
    config = json.loads((Path(wide.path) / "config.json").read_text())
    tensors = load_file(Path(wide.path) / "model.safetensors")
    tensors["model.decoder.layers.2.fc1.weight"] = torch.zeros(99, config["hidden_size"])
    save_file(tensors, Path(wide.path) / "model.safetensors", metadata={"format": "pt"})
    changed = wide.model_copy(update={"weights": "changed"})
    with pytest.raises(InputError, match=r"fc1\.weight of block 2 is F32 \[99, 32\] after and F32 \[48, 32\] before"):
        weights.run(chain.runtime, model=chain.model, other=changed)
