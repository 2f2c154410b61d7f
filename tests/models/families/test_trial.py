"""Families that the table does not have are tried on a small model of their config, and refused by what fails."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, PreTrainedConfig

from tasks.core.errors import InputError
from tasks.core.families.shrinking import representative_blocks, shrunk
from tasks.core.families.trial import random_model
from tasks.models.families.known import OPERATIONS, failed_operations, require_exact
from tasks.models.families.trial import check_rebuildable, operations_not_exact, try_config, try_family
from tasks.models.source import ModelSource
from tests.store.support_matrix import measured_configs

# Of the sizes that their families' configs have by default, up to 671 billion parameters.
FULL_SIZE = ("afmoe", "deepseek_v3", "falcon_h1", "gemma3", "jetmoe", "kimi_linear", "lfm2", "mamba2")


def source(folder: Path, config: PreTrainedConfig) -> ModelSource:
    """A model folder with nothing but its config."""
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    named = {"path": str(folder), "name": "models/own", "weights": "", "tokenizer": ""}
    return ModelSource(**named, num_blocks=4, family=config.model_type, context=64)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FULL_SIZE)
def test_a_config_of_full_size_is_shrunk_to_a_model_that_runs(family: str) -> None:
    config = AutoConfig.for_model(family)
    before = config.to_dict()
    small = shrunk(config)
    assert config.to_dict() == before
    model = random_model(small)
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
    num_blocks = small.get_text_config(decoder=True).num_hidden_layers
    assert 4 <= num_blocks <= 8
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None) or []
    assert {kinds[block] for block in representative_blocks(config)[:num_blocks] if kinds} == set(kinds)


@pytest.mark.filterwarnings("ignore")
def test_the_verdict_on_a_small_model_is_that_on_the_family() -> None:
    small = {name: shrunk(config) for name, config in measured_configs().items()}
    for name in ("qwen3_moe", "rwkv"):
        assert small[name].model_type == name
        assert set(try_config(small[name])) == set(failed_operations(name) or {})


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_family_is_tried_and_its_failures_are_named(tmp_path: Path) -> None:
    """DiffLlama computes a number from each block's depth, so that a saved emulator would have other numbers."""
    model = source(tmp_path / "diffllama", AutoConfig.for_model("diffllama"))
    assert failed_operations("diffllama") is None
    failed = operations_not_exact(model)
    assert list(failed) == ["surgery"]
    assert "lambda_init" in failed["surgery"]
    failed = operations_not_exact(source(tmp_path / "afmoe", AutoConfig.for_model("afmoe")))
    assert failed == {"stand_ins": "no block's last linear module is added to its state unchanged"}


@pytest.mark.filterwarnings("ignore")
def test_a_family_whose_states_are_no_states_is_refused_at_once(tmp_path: Path) -> None:
    model = source(tmp_path / "model", AutoConfig.for_model("xlnet"))
    with pytest.raises(InputError, match=r"models/own is of family xlnet, in which capturing .* is not exact"):
        operations_not_exact(model)


@pytest.mark.filterwarnings("ignore")
def test_shared_keys_and_values_are_named(tmp_path: Path) -> None:
    failed = operations_not_exact(source(tmp_path / "shared", measured_configs()["gemma4_text"]))
    assert failed["surgery"] == "its last 2 blocks use the keys and values of blocks before them"


@pytest.mark.filterwarnings("ignore")
def test_a_config_of_which_no_small_model_can_be_built_is_refused(tmp_path: Path) -> None:
    model = source(tmp_path / "model", AutoConfig.for_model("diffllama"))
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "no such function"}))
    with pytest.raises(
        InputError, match=r"family diffllama, which this version was not tested with, .* cannot be built"
    ):
        try_family(Path(model.path))


def test_a_setting_that_ties_blocks_to_their_depth_is_found_in_a_known_family(tmp_path: Path) -> None:
    gpt = {"n_layer": 4, "n_embd": 32, "n_head": 4}
    assert operations_not_exact(source(tmp_path / "plain", AutoConfig.for_model("gpt2", **gpt))) == {}
    scaled = AutoConfig.for_model("gpt2", **gpt, scale_attn_by_inverse_layer_idx=True)
    failed = operations_not_exact(source(tmp_path / "scaled", scaled))
    assert list(failed) == ["surgery"]
    assert "block 2 cannot run at position 1 of a saved model" in failed["surgery"]
    assert check_rebuildable(tmp_path / "plain") is None


def test_the_first_thing_that_is_wanted_and_fails_is_refused_with_its_remedy() -> None:
    failed = {"sharing": "weights change in place", "lens": "there is no norm"}
    require_exact("own", "odd", failed, dict.fromkeys(OPERATIONS.keys() - failed.keys(), ""))
    wanted = {"capture": "", "sharing": "plan.share of crash", "lens": "support.final_norm = true"}
    message = (
        r"own is of family odd, in which sharing blocks \(asked for by plan.share of crash\) is not exact: weights"
        r' change in place\. What to do: set plan.share = "none", or take a model of another family'
    )
    with pytest.raises(InputError, match=message):
        require_exact("own", "odd", failed, wanted)
