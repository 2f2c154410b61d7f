"""`crash plan-cost`: where its numbers come from, what is counted once, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main, parser
from flows.cost.command import PEAKS, UTILISATION, choose_device
from flows.cost.estimates import estimate_cells
from flows.cost.inputs import Known, given_rows, workload_of
from flows.settings.grid import make_cells, split_axes
from flows.settings.kinds import SearchSettings
from flows.settings.reading import read_settings
from flows.settings.run import Settings
from tasks.core.costs.paper_rows import PUBLISHED_ROWS
from tasks.core.costs.workloads import NUM_QUANTILES, Lengths, Workload, sorted_passes, training_passes
from tasks.core.errors import EnvironmentFault, InputError
from tasks.data import lengths as measuring
from tasks.data.lengths import measure
from tasks.data.resolving import own_folder
from tasks.models.shape import read_shape
from tests.flows.published_shapes import write_config
from tests.make_data.lengths import write_filler_rows
from tests.places import DEMO
from tests.store.inputs import QA_TASKS, own_task, question, real_task, write_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that holds only the config.json of OPT-1.3B."""
    return str(write_config("opt-1.3b-table1", tmp_path_factory.mktemp("shape") / "model"))


@pytest.fixture(scope="module")
def real_lengths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of hundreds of rows of each published task: meaningless text, each as long as a real row's."""
    folder = tmp_path_factory.mktemp("lengths")
    for name in QA_TASKS:
        write_filler_rows(name, folder / "tasks" / name)
    return folder


DISTILL = {"enabled": True, "data": "Salesforce/wikitext:wikitext-103-raw-v1", "num_steps": 1000, "batch_size": 8}
DISTILL |= {"warmup_steps": 10}


def settings(name: str, **groups: Any) -> Settings:
    values = {"model": {"name": name}, "task": {"name": "arc_easy"}, "plan": {"num_kept": 12}, **groups}
    return Settings.model_validate(values)


def stages(*cells: Settings) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for cost in estimate_cells([({}, cell) for cell in cells]).stages.values():
        found.setdefault(cost.stage, []).append(cost)
    return found


def test_a_config_alone_is_enough(model: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(f'[model]\nname = "{model}"\n[task]\nname = "piqa"\n[plan]\nnum_kept = 12\n')
    with pytest.raises(SystemExit) as ended:
        main(["plan-cost", str(path), "--gpu", "A100"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for word in ("capture", "evaluate", "full_tune", "total", "GPU hours", "A100 at 40% of 312 TFLOP/s"):
        assert word in printed
    # All blocks of the full model: values and two moments.
    (weight,) = re.findall(r"A checkpoint, every checkpoint_steps steps, weighs up to ([0-9.]+) GB", printed)
    assert float(weight) == pytest.approx(12 * 24 * read_shape(model).block / 1e9, abs=0.01)


def test_common_work_is_counted_once(model: str) -> None:
    base, axes = split_axes(
        {
            "model": {"name": model},
            "task": {"name": "arc_easy"},
            "strategy": ["uniform", "crash"],
            "plan": {"num_kept": [8, 12]},
            "tune": {"learning_rate": [1e-5, 2e-5]},
        }
    )
    cells = [cell for _, cell in make_cells(Settings.model_validate(base), axes)]
    counts = {stage: len(found) for stage, found in stages(*cells).items()}
    # Two budgets and two strategies make four emulators; each is tuned at two rates, the full model too.
    assert counts == {
        **{"check": 1, "capture": 1, "similarity": 1, "cluster": 5, "emulate": 4, "tune": 8, "full_tune": 2},
        **{"plug_in": 8, "evaluate": 1 + 2 + 4 + 8 + 8, "report": 4},
    }


def test_what_a_setting_changes(model: str) -> None:
    def one(stage: str, **groups: Any) -> Any:
        return stages(settings(**{"name": model, "full_tune": {"enabled": False}, **groups}))[stage][0]

    once, twice = (one("tune", tune={"num_steps": steps}) for steps in (100, 200))
    assert twice.flops == pytest.approx(2 * once.flops)
    assert twice.memory == once.memory
    validated = one("tune", tune={"num_steps": 100, "eval_steps": 50})
    assert validated.flops > once.flops
    assert validated.working_disk > once.working_disk
    shared, removed = (
        one("tune", strategy="crash", plan={"num_kept": 12, "share": share}) for share in ("all", "none")
    )
    # Sharing saves parameters, not compute.
    assert 1.7 < shared.flops / removed.flops < 2.1
    assert shared.disk == removed.disk
    wide, narrow = (one("evaluate", model={"name": model, "precision": name}) for name in ("float32", "bfloat16"))
    assert wide.memory > narrow.memory
    # In small passes, as few large ones are mostly padding.
    limits, scoring = ({"num_test": 100}, {}), {"max_tokens": 256}
    few, all_ = (one("evaluate", task={"name": "arc_easy", **limit}, evaluate=scoring) for limit in limits)
    assert few.flops == pytest.approx(all_.flops * 100 / PUBLISHED_ROWS["arc_easy"].rows[2], rel=0.1)


def test_an_emulator_of_explicit_blocks_is_trained_from_its_lowest_tuned_one(model: str) -> None:
    def tune(tuned: list[int]) -> float:
        plan = {"num_kept": 4, "num_tuned": 2, "kept": [0, 1, 22, 23], "tuned": tuned, "share": "none"}
        return stages(settings(model, strategy="fixed", plan=plan))["tune"][0].flops

    assert tune([0, 1]) > tune([1, 22]) > tune([22, 23])


def test_distillation_is_a_stage_of_its_own(model: str) -> None:
    shape = read_shape(model)
    (cost,) = stages(settings(model, strategy="uniform", distill=DISTILL))["distill"]
    tokens = 8 * 512 * 1000
    # The teacher forward up to its last two blocks, the student forward, and backward down to its first two blocks with
    # the weights of 8 of 12 blocks.
    products = 2 * (22 + 12 + 10 + 8) * shape.matrices * tokens + 4 * shape.head * tokens
    assert products < cost.flops < 1.1 * products
    assert cost.memory > 2 * shape.parameters + 16 * 8 * shape.block


def test_rows_that_are_here_are_measured(model: str, tmp_path: Path) -> None:
    rows = [question(number) for number in range(40)]
    own_task(tmp_path, rows, [question(number) for number in range(40, 50)])
    found = workload_of(settings(model, task={"name": "arc_easy", "data": str(tmp_path)}), read_shape(model))
    assert (found.train.num_rows, found.validation.num_rows, found.num_scored) == (36, 4, 10)
    # The three choices of a row are short words, one token each: they share one pass.
    assert found.scored.num_rows == 10
    # About as many tokens as its text has characters, divided by the characters of a token.
    assert found.train.tokens[0] == pytest.approx(len("Question: What comes after 0?\nAnswer: two") / 4.5, abs=2)


def test_cells_with_different_numbers_of_examples_have_lengths_of_their_own(model: str, tmp_path: Path) -> None:
    own_task(tmp_path, [question(number) for number in range(40)], [question(number) for number in range(40, 50)])
    given = {"task": {"name": "arc_easy", "data": str(tmp_path)}}
    cells = [settings(model, **given, evaluate={"num_fewshot": shots}) for shots in (0, 5)]
    known, shape = Known(None), read_shape(model)
    none, few = (sum(known.workload(cell, shape).scored.tokens) for cell in cells)
    assert few > 3 * none
    # A search validates, and scores nothing.
    search = SearchSettings.model_validate(cells[1].model_dump(exclude_unset=True))
    assert sum(known.workload(search, shape).scored.tokens) == none
    with pytest.raises(InputError, match="num_fewshot: the rows of task 'arc_easy' are not here"):
        workload_of(settings(model, evaluate={"num_fewshot": 5}), shape)


def test_the_models_own_tokenizer_counts(tmp_path: Path) -> None:
    demo = read_settings(DEMO / "settings.toml")
    found = workload_of(demo, read_shape(demo.model.name))
    assert found.train.num_rows == 720
    assert len(set(found.train.tokens)) > 1


def test_a_sample_stands_for_all_rows(real_lengths: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = real_task(real_lengths, "arc_easy", num_train=300, num_validation=None, num_test=200)
    whole = measure(task, None, 2048)
    monkeypatch.setattr(measuring, "NUM_SAMPLED", 100)
    part = measure(task, None, 2048)
    assert (part.train.num_rows, part.num_scored) == (whole.train.num_rows, whole.num_scored) == (300, 200)
    one, other = (training_passes(found.train, 2048, 32, 8192)[0].tokens for found in (part, whole))
    assert one == pytest.approx(other, rel=0.1)


@pytest.mark.parametrize("name", QA_TASKS)
def test_the_table_of_published_tasks_is_what_its_rows_measure(real_lengths: Path, name: str) -> None:
    """By the length of the text instead of the tokenizer, and from 128 rows of each split."""
    found = measure(real_task(real_lengths, name, num_train=128, num_validation=8, num_test=128), None, 4096)
    table = PUBLISHED_ROWS[name].workload()
    assert len(table.train.tokens) == len(table.scored.tokens) == NUM_QUANTILES
    for ours, theirs in ((found.train, table.train), (found.scored, table.scored)):
        assert sum(ours.tokens) / len(ours.tokens) == pytest.approx(sum(theirs.tokens) / NUM_QUANTILES, rel=0.25)
    # Without the tokenizer, fewer choices are seen to differ in their last token only.
    assert found.scored.num_rows / found.num_scored == pytest.approx(PUBLISHED_ROWS[name].requests, rel=0.35)


def test_padded_passes_are_those_that_the_code_makes() -> None:
    lengths = Lengths.of([(length, 2) for length in (10, 20, 30, 40)])
    passes = sorted_passes(lengths, 35, 60)
    # 40 is cut to 35; [35] and [30] and [20, 10], as two of 35 or three of 30 are too many.
    assert (passes.tokens, passes.squares) == (35 + 30 + 40, 35**2 + 30**2 + 2 * 20**2)
    assert (passes.answers, passes.largest) == (8, 40)
    epoch, num_steps = training_passes(replace(lengths, num_rows=9), 100, 4, 1000)
    assert num_steps == 3
    assert epoch.largest <= 160


def test_given_rows_and_devices() -> None:
    found = given_rows("100,10,20", 50, 5)
    assert isinstance(found, Workload)
    assert (found.train.num_rows, found.scored.num_rows, found.scored.answers) == (100, 20, 5)
    assert given_rows(None, None, None) is None
    device = choose_device(None, None, UTILISATION)
    assert device.hours(PEAKS["H100"] * 1e12 * UTILISATION * 3600) == pytest.approx(1)
    assert choose_device(None, 100.0, 0.5).hours(50e12 * 3600) == pytest.approx(1)


def refused(message: str, model: str, *arguments: str, name: str = "arc_easy", tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(f'[model]\nname = "{model}"\n[task]\nname = "{name}"\n[plan]\nnum_kept = 12\n')
    options = parser().parse_args(["plan-cost", str(path), *arguments])
    with pytest.raises((InputError, EnvironmentFault), match=message):
        options.run(options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "H1000"], "known are A100, H100"),
        (["--tflops", "0"], "above 0"),
        (["--utilisation", "40"], "share of the peak"),
        (["--rows", "12"], "write three numbers"),
        (["--tokens-per-row", "12"], "write three numbers"),
        (["--rows", "1,2,3"], "belong together"),
    ],
)
def test_bad_options(model: str, tmp_path: Path, arguments: list[str], message: str) -> None:
    refused(message, model, *arguments, tmp_path=tmp_path)


def test_what_cannot_be_estimated(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("rows are not here.*openbookqa.*--rows", model, name="triviaqa", tmp_path=tmp_path)
    refused("unknown task", model, name="triviaqaa", tmp_path=tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("hub cannot be reached.*--set model.name", "nobody/nothing-of-this-name", tmp_path=tmp_path)
    refused("neither a folder", "no folder", tmp_path=tmp_path)
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    refused("is an encoder|an encoder", str(folder), tmp_path=tmp_path)


def test_one_place_for_several_tasks(model: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "arc_easy" / "train.jsonl", [question()])
    place = str(tmp_path / "data" / "{name}")
    assert own_folder("arc_easy", place) == str(tmp_path / "data" / "arc_easy")
    assert own_folder("piqa", place) is None
    assert own_folder("mine", place, "text") == str(tmp_path / "data" / "mine")
    path = tmp_path / "settings.toml"
    path.write_text(
        f'[model]\nname = "{model}"\n[task]\nname = "piqa"\ndata = "data/{{name}}"\n[plan]\nnum_kept = 12\n'
    )
    # Relative to the file, as other folders.
    assert read_settings(path).task.data == place


def test_a_mixture_of_experts_is_priced_by_what_runs(tmp_path: Path) -> None:
    """Published: DeepSeek-V2-Lite has 15.7e9 parameters of which 2.4e9 are active, Mixtral 46.7e9 and 12.9e9."""
    common = {"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6, "dtype": "bfloat16"}
    common |= {"tie_word_embeddings": False}
    latent = {"kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
    deepseek = common | latent | {"model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"]}
    deepseek |= {"hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "vocab_size": 102400}
    deepseek |= {"num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "v_head_dim": 128}
    deepseek |= {"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1}
    mixtral = common | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 32000}
    mixtral |= {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    mixtral |= {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2}
    for config, parameters, active in ((deepseek, 15.7e9, 2.4e9), (mixtral, 46.7e9, 12.9e9)):
        folder = tmp_path / config["model_type"]
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        shape = read_shape(str(folder))
        assert shape.parameters == pytest.approx(parameters, rel=0.01)
        # Of what lies outside the blocks the head is multiplied.
        running = shape.num_blocks * shape.matrices + shape.head
        assert running == pytest.approx(active, rel=0.03)
        # In memory, and in an emulator on disk, all experts are held; the uniform plan keeps the first block.
        found = stages(settings(str(folder), strategy="uniform"))
        assert max(cost.memory for cost in found["evaluate"]) > 2 * shape.parameters
        (emulator,) = found["emulate"]
        held = shape.blocks[0].parameters + 11 * shape.blocks[1].parameters + shape.outside
        assert emulator.disk == pytest.approx(2 * held, rel=1e-5)


def test_an_approximate_price_is_said_to_be_one(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("tasks.core.costs.shapes._known", {})
    monkeypatch.setattr("tasks.core.costs.shapes.count_operations", lambda _: None)
    path = tmp_path / "settings.toml"
    path.write_text(f'[model]\nname = "{model}"\n[task]\nname = "piqa"\n[plan]\nnum_kept = 12\n')
    options = parser().parse_args(["plan-cost", str(path)])
    options.run(options)
    assert f"Operations of {model} are approximate: its code cannot run without memory" in capsys.readouterr().out
