"""Tuning variants through the real command: a grid of learning rates with LoRA, and what is refused before it runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.running.arguments import Arguments
from flows.running.inputs import check_variant
from flows.settings.run import Settings
from tasks.core.errors import InputError
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS
from tests.flows.commands import artifacts, crash, small_settings, stages

pytestmark = pytest.mark.usefixtures("one_prefect")

LORA = ["--set", "tune.method=lora", "--set", "tune.learning_rates=[1e-4, 5e-3]", "--set", "tune.eval_steps=2"]
BASE: dict[str, Any] = {"model": {"name": "m"}, "task": {"name": "t"}, "plan": {"num_kept": 4, "num_tuned": 2}}


def settings(**groups: Any) -> Settings:
    """Settings with some keys of some groups changed."""
    values = {name: dict(group) for name, group in BASE.items()}
    for name, group in groups.items():
        values[name] = {**values.get(name, {}), **group} if isinstance(group, dict) else group
    return Settings.model_validate(values)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    done = crash("run", str(small_settings(folder)), *LORA)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| crash emulator " in done.stdout
    return folder


def found(folder: Path, stage: str) -> list[Path]:
    return sorted((folder / "home/store/artifacts" / stage).iterdir())


def test_every_rate_is_tuned_and_one_is_taken_for_all_behind_it(ran: Path) -> None:
    counts = stages(set(artifacts(ran / "home/store")))
    # Two strategies and the full model, each at two rates.
    assert (counts["tune"], counts["select"], counts["plug_in"], counts["evaluate"]) == (6, 3, 2, 8)
    for folder in found(ran, "select"):
        manifest = json.loads((folder / "manifest.json").read_text())
        summary = manifest["summary"]
        losses = {rate: summary[f"validation_loss_at_{rate:g}"] for rate in (1e-4, 5e-3)}
        assert summary["learning_rate"] == min(losses, key=losses.__getitem__)
        assert summary["best_validation_loss"] == min(losses.values())
    report = json.loads((found(ran, "report")[-1] / "report.json").read_text())
    assert {row["setting"] for row in report["rows"]} >= {"emulator_fine_tuned", "plug_in", "full_fine_tuned"}
    for folder in found(ran, "plug_in"):
        variant = json.loads((folder / "variant.json").read_text())
        assert variant["method"] == "blocks", "factors are merged"
    methods = [json.loads((folder / "variant.json").read_text())["method"] for folder in found(ran, "select")]
    assert sorted(methods) == ["blocks", "lora", "lora"], "the full model's ceiling is whole blocks"


def test_again_nothing_is_computed(ran: Path) -> None:
    before = artifacts(ran / "home/store")
    again = crash("run", str(ran / "settings.toml"), *LORA, "--set", "tune.gradient_checkpointing=true")
    assert again.returncode == 0, again.stderr
    assert artifacts(ran / "home/store") == before


def test_what_this_model_cannot_do_is_refused_before_anything_runs(tmp_path: Path) -> None:
    small_settings(tmp_path)
    adapter = ["--set", "tune.method=adapter", "--set", "export.plugged_model=true"]
    refused = crash("run", str(tmp_path / "settings.toml"), *adapter)
    assert refused.returncode == 2
    assert "a Hugging Face folder cannot hold what tune.method" in refused.stderr
    assert not list((tmp_path / "home/store").glob("artifacts/*/*"))


def folder_of(family: str, tmp_path: Path) -> Path:
    """A model folder's config."""
    FAMILIES[family]().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"tune": {"method": "bitfit"}}, 'tune.method = "bitfit", but the blocks of llama .* choose from blocks, lora'),
        ({"tune": {"trained": "frozen"}, "plan": {"num_kept": 2}}, "plan.num_tuned = plan.num_kept = 2: no kept block"),
        (
            {
                "strategy": "fixed",
                "tune": {"freeze_bottom": True},
                "plan": {"num_kept": 3, "num_tuned": 2, "kept": [0, 1, 5], "tuned": [0, 1]},
            },
            "freeze_bottom leaves nothing to train",
        ),
        (
            {
                "strategy": "fixed",
                "tune": {"trained": "all"},
                "plan": {"num_kept": 2, "num_tuned": 2, "kept": [0, 5], "tuned": [0, 5]},
            },
            "every kept block is tuned: there is no frozen one",
        ),
    ],
)
def test_refused_by_the_config_alone(groups: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        check_variant(settings(**groups), NUM_BLOCKS, folder_of("llama", tmp_path))


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit"])
def test_what_a_family_has_is_not_refused(method: str, tmp_path: Path) -> None:
    chosen = settings(tune={"method": method, "lm_head": True, "gradient_checkpointing": True, "trained": "all"})
    check_variant(chosen, NUM_BLOCKS, folder_of("gpt2", tmp_path))


def test_a_stage_is_told_only_what_it_uses() -> None:
    plain, lora = (Arguments(settings(tune={"method": method}), "float32") for method in ("blocks", "lora"))
    assert plain.tune(0, 1e-4).keys() == {"settings", "precision"}
    assert lora.tune(0, 1e-4)["variant"].method == "lora"
    assert lora.full_tune(0, 1e-4) == plain.full_tune(0, 1e-4)
    grid = {"learning_rates": [1e-3, 1e-4], "eval_steps": 5}
    assert Arguments(settings(tune=grid), "float32").full_rates == (1e-3, 1e-4)
    own = Arguments(settings(tune=grid, full_tune={"learning_rate": 1e-5}), "float32")
    assert (own.rates, own.full_rates) == ((1e-3, 1e-4), (1e-5,))
    several = Arguments(settings(tune={"eval_steps": 5}, full_tune={"learning_rates": [1e-5, 2e-5]}), "float32")
    assert (len(several.rates), several.full_rates) == (1, (1e-5, 2e-5))
    assert several.full_tune(0, 2e-5)["settings"].may_diverge
    assert not several.tune(0)["settings"].may_diverge
