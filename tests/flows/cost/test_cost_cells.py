"""What cells have in common is counted once, as the flow's own keys have it; what cannot be run is not priced."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers.models.gpt2 import GPT2Config
from transformers.models.llama import LlamaConfig

from flows.cost.estimates import estimate_cells
from flows.cost.inputs import VALIDATING_TOKENS
from flows.cost.priced import SMALL_BYTES, Cost
from flows.running.arguments import Arguments
from flows.settings.grid import make_cells
from flows.settings.kinds import AllSettings
from tasks.core.errors import InputError
from tasks.store.artifacts import Ref
from tasks.tune import tune

TEXT = "Salesforce/wikitext:wikitext-103-raw-v1"
SIZES = {"vocab_size": 1000, "max_position_embeddings": 256}
DISTILL = {"enabled": True, "data": TEXT, "num_steps": 300, "batch_size": 4, "warmup_steps": 0, "block": 64}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with nothing but a config: one family with biases, one without."""
    root = tmp_path_factory.mktemp("models")
    llama = LlamaConfig(**SIZES, hidden_size=64, intermediate_size=160, num_hidden_layers=8, num_attention_heads=4)
    configs = {"llama": llama, "gpt2": GPT2Config(vocab_size=1000, n_embd=64, n_layer=8, n_head=4, n_positions=256)}
    for name, config in configs.items():
        config.architectures = [{"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}[name]]
        config.save_pretrained(root / name)
    return {name: str(root / name) for name in configs}


def cells_of(model: str, axes: dict[str, list[Any]], **groups: Any) -> list[tuple[dict[str, Any], AllSettings]]:
    values = {"model": {"name": model}, "task": {"name": "arc_easy"}, "plan": {"num_kept": 4, "num_tuned": 2}}
    return make_cells(AllSettings.model_validate(values | {"strategy": "uniform"} | groups), axes)


def counts(model: str, axes: dict[str, list[Any]], **groups: Any) -> Counter:
    return Counter(cost.stage for cost in estimate_cells(cells_of(model, axes, **groups)).stages.values())


def one(model: str, stage: str, **groups: Any) -> list[Cost]:
    found = estimate_cells(cells_of(model, {}, **groups)).stages.values()
    return [cost for cost in found if cost.stage == stage]


AXES: list[tuple[str, list[Any], int, dict[str, Any]]] = [
    ("tune.method", ["blocks", "lora", "adapter", "bitfit", "prompt"], 5, {}),
    ("tune.trained", ["tuned", "frozen", "all"], 3, {}),
    ("tune.lm_head", [False, True], 2, {}),
    ("tune.adapter_size", [4, 8], 2, {"method": "adapter"}),
    ("tune.adapter_size", [4, 8], 1, {"method": "lora"}),
    ("tune.lora_rank", [2, 4], 2, {"method": "lora"}),
    ("tune.lora_alpha", [16, 32], 1, {}),
    ("tune.gradient_checkpointing", [False, True], 1, {}),
    ("tune.checkpoint_steps", [50, 60], 1, {}),
]


@pytest.mark.parametrize(("key", "values", "num_tuned", "tuning"), AXES, ids=[str(axis[:2]) for axis in AXES])
def test_the_full_model_is_tuned_once(
    models: dict[str, str], key: str, values: list[Any], num_tuned: int, tuning: dict[str, Any]
) -> None:
    found = counts(models["gpt2"], {key: values}, tune=tuning)
    assert (found["full_tune"], found["tune"], found["report"]) == (1, num_tuned, num_tuned)


def test_patience_that_ends_a_tuning_makes_another_one(models: dict[str, str]) -> None:
    found = counts(models["gpt2"], {"tune.patience": [1, 2]}, tune={"eval_steps": 10})
    assert (found["full_tune"], found["tune"]) == (2, 2)


def test_a_distillation_is_computed_once(models: dict[str, str]) -> None:
    axes: dict[str, list[Any]] = {"distill.checkpoint_steps": [50, 60]}
    found = counts(models["gpt2"], axes, distill=DISTILL)
    assert (found["distill"], found["tune"], found["report"]) == (1, 1, 1)
    assert counts(models["gpt2"], {"distill.seed": [0, 1]}, distill=DISTILL)["distill"] == 2
    teachers = {"distill.teacher": [models["gpt2"], models["llama"]]}
    assert counts(models["gpt2"], teachers, distill=DISTILL)["distill"] == 2


def test_what_a_compression_does_not_look_at_makes_no_other_one(models: dict[str, str]) -> None:
    low_rank = {"method": "low_rank", "rank": 0.25}
    assert counts(models["gpt2"], {"compress.seed": [0, 1]}, compress=low_rank)["compress"] == 1
    drawn = low_rank | {"rank_choice": "sampling"}
    assert counts(models["gpt2"], {"compress.seed": [0, 1]}, compress=drawn)["compress"] == 2


@pytest.mark.parametrize("key", ["tune.adapter_size", "tune.gradient_checkpointing", "tune.seeds", "tune.method"])
def test_as_many_as_the_stages_own_keys(models: dict[str, str], key: str) -> None:
    """The estimate's identities against those under which the store would keep what the flow computes."""
    choices = {"adapter_size": [4, 8], "gradient_checkpointing": [False, True], "seeds": [[0], [0, 1]]}
    values = choices.get(key.removeprefix("tune."), ["blocks", "lora", "bitfit"])
    cells = cells_of(models["gpt2"], {key: values})
    ref = Ref(stage="emulate", key="0" * 64, digest="0" * 64, summary={})
    keys = {
        tune.key(task=None, plan=ref, emulator=ref, **Arguments(cell, "bfloat16").tune(seed))[0]
        for _, cell in cells
        for seed in cell.tune.seeds
    }
    found = Counter(cost.stage for cost in estimate_cells(cells).stages.values())
    assert found["tune"] == len(keys)


def test_a_validated_distillation_costs_more(models: dict[str, str], tmp_path: Path) -> None:
    (once,) = one(models["gpt2"], "distill", distill=DISTILL)
    (validated,) = one(models["gpt2"], "distill", distill=DISTILL | {"eval_steps": 100})
    steps = 4 * 64 * 300
    windows = -(-(VALIDATING_TOKENS[TEXT] - 1) // 63)
    assert validated.flops > once.flops
    # Forward through teacher and emulator: less than a step's, which goes backward too.
    assert validated.flops - once.flops < once.flops * windows * 64 * 3 / steps
    assert validated.memory > once.memory
    assert validated.working_disk == pytest.approx(once.working_disk * 4 / 3)
    (tmp_path / "train.txt").write_text("word " * 9000)
    (tmp_path / "validation.txt").write_text("word " * 900)
    here = DISTILL | {"data": str(tmp_path)}
    (short,) = one(models["gpt2"], "distill", distill=here | {"eval_steps": 100})
    # 4,500 characters are about 1,000 tokens, 16 windows.
    assert short.flops - once.flops == pytest.approx((validated.flops - once.flops) * 16 / windows)


def test_factors_are_cheaper(models: dict[str, str]) -> None:
    dense, factored = (
        {
            stage: one(models["llama"], stage, compress=how)[0]
            for stage in ("emulate", "compress", "evaluate", "tune", "plug_in")
        }
        for how in ({"method": "prune", "ratio": 0.5}, {"method": "low_rank", "rank": 0.25})
    )
    assert factored["compress"].disk < dense["compress"].disk == dense["emulate"].disk
    for stage in ("evaluate", "tune"):
        assert factored[stage].flops < dense[stage].flops
        assert factored[stage].memory < dense[stage].memory
    assert (factored["emulate"], factored["plug_in"]) == (dense["emulate"], dense["plug_in"])
    distilled, cheaper = (
        one(models["llama"], "distill", distill=DISTILL, compress=how)[0]
        for how in ({}, {"method": "low_rank", "rank": 0.25})
    )
    assert cheaper.flops < distilled.flops
    assert (cheaper.disk, cheaper.working_disk) < (distilled.disk, distilled.working_disk)


def test_harmonizers_are_priced_and_part_of_the_emulator(models: dict[str, str]) -> None:
    model, more = models["llama"], {"distill": {"data": "owner/text", "block": 64}}
    more |= {"harmonizers": {"rank": 3, "share": 0.5}, "plan": {"num_kept": 4, "num_tuned": 2, "share": "harmonizers"}}
    for stage in ("evaluate", "tune"):
        found, plain = one(model, stage, **more), one(model, stage)
        assert sum(cost.flops for cost in found) > sum(cost.flops for cost in plain)
        assert sum(cost.memory for cost in found) > sum(cost.memory for cost in plain)
        assert [cost.disk for cost in found] == [cost.disk for cost in plain]
    assert one(model, "plug_in", **more) == one(model, "plug_in")
    # Two of four removed blocks have one, stored in 32 bits as this config says.
    one_harmonizer = 2 * 3 * 64
    assert one(model, "emulate", **more)[0].disk - one(model, "emulate")[0].disk == 2 * one_harmonizer * 4
    (cost,) = one(model, "harmonizers", **more)
    # Of the eight blocks, two are tuned in every plan and never replaced.
    assert cost.disk == 6 * (one_harmonizer * 4 + 8) + 8 * 4 + SMALL_BYTES
    assert cost.working_disk == 2 * 3 * 4 * 6 * one_harmonizer
    assert one(model, "harmonizers") == []


def test_what_decides_the_cost_of_harmonizers(models: dict[str, str]) -> None:
    def priced(**settings: Any) -> Cost:
        given = {"distill": {"data": "owner/text", "block": 64}, "harmonizers": {"num_steps": 100, **settings}}
        (cost,) = one(models["llama"], "harmonizers", strategy="scaleot", **given)
        return cost

    first = priced()
    assert priced(num_steps=200).flops == pytest.approx(2 * first.flops)
    assert priced(score_steps=5).flops > first.flops
    assert priced(max_tokens=64).memory < first.memory
    assert priced(rank=8).disk < first.disk
    given: dict[str, Any] = {"strategy": "scaleot", "distill": {"data": "owner/text"}}
    for key, values, number in (("checkpoint_steps", [5, 9], 1), ("share", [0.5, 1.0], 1), ("rank", [4, 8], 2)):
        assert counts(models["llama"], {f"harmonizers.{key}": values}, **given)["harmonizers"] == number


@pytest.mark.parametrize(
    ("family", "key", "value", "message"),
    [
        ("gpt2", "plan.num_kept", 99, r"plan\.num_kept=99: plan\.num_kept = 99, but .* has 8 blocks"),
        ("llama", "tune.method", "bitfit", r'tune\.method=bitfit: tune\.method = "bitfit", but .* no biases'),
        ("gpt2", "plan.num_tuned", 1, r"plan\.num_tuned=1: strategy crash .*num_tuned = 1"),
        ("gpt2", "compress.rank", 0.001, r"compress\.rank=0\.001: compress\.rank = 0\.001: .* rank 0"),
        ("gpt2", "distill.teacher", "other", r"distill\.teacher=.*: distill\.teacher = .* has hidden_size 96"),
    ],
)
def test_what_a_run_refuses_is_not_priced(
    models: dict[str, str], tmp_path: Path, family: str, key: str, value: Any, message: str
) -> None:
    groups: dict[str, Any] = {"strategy": "crash"}
    first: dict[str, Any] = {"plan.num_kept": 4, "tune.method": "blocks", "plan.num_tuned": 2, "compress.rank": 0.25}
    if key == "compress.rank":
        groups["compress"] = {"method": "low_rank", "rank": 0.25}
    if key == "distill.teacher":
        groups["distill"] = DISTILL
        GPT2Config(vocab_size=1000, n_embd=96, n_layer=8, n_head=4).save_pretrained(tmp_path / "other")
        value, first[key] = str(tmp_path / "other"), models["gpt2"]
    cells = cells_of(models[family], {key: [first[key], value]}, **groups)
    with pytest.raises(InputError, match=f"^the cell {message}"):
        estimate_cells(cells)
    estimate_cells(cells[:1])
