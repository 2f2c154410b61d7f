"""The ready settings: every cell of every file is possible with the real model's dimensions, and has an estimate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedModel

from flows.cli.main import main
from flows.cost.command import UTILISATION, choose_device, summary
from flows.cost.estimates import estimate_cells
from flows.cost.plan_sizes import trained_of
from flows.running.arguments import Arguments
from flows.running.inputs import check_budget, check_variant
from flows.settings.grid import make_cells
from flows.settings.reading import read_sweep
from flows.settings.run import Settings
from tasks.core.blocks.locate_blocks import get_blocks, require_rebuildable, skeleton
from tasks.core.blocks.surgery import with_layout
from tasks.core.clustering import adjacent_clusters
from tasks.core.costs.depths import Depth
from tasks.core.costs.shapes import shape_of
from tasks.core.costs.totals import trained_parameters
from tasks.core.plan.layout import Plan
from tasks.core.plan.registry import STRATEGIES, make_plan
from tasks.core.tuning.distilling import FrozenBlocks, segments
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.trainable import make_trained
from tasks.data.emulator_checks import check_emulators
from tasks.models.shape import read_shape
from tasks.models.source import ModelSource
from tests.flows.published_shapes import SHAPES, write_config
from tests.places import ROOT

TABLES = ROOT / "flows" / "tables"
# Tasks times variants.
NUM_CELLS = {"opt-1.3b-table1": 40, "opt-6.7b": 24, "llama-2-7b": 24, "gpt2-xl": 21, "qwen3-8b": 28}
ROWS_OF_TABLE_1 = {"uniform", "uniform_spread", "crash"}


@pytest.fixture(scope="module", params=SHAPES)
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Name and file of a table, and a folder with its model's config alone."""
    name = request.param
    return name, TABLES / f"{name}.toml", write_config(name, tmp_path_factory.mktemp(name) / "model")


def cells_of(file: Path, model: Path) -> list[Settings]:
    return [cell for _, cell in make_cells(*read_sweep(file, [f"model.name={model}"]))]


def test_every_file_is_tested() -> None:
    """The demo's comparison is run whole; those of a real model that anyone can run are in `test_real_tables.py`."""
    real = {"smollm2-135m", "smollm2-135m-evidence"}
    assert {file.stem for file in TABLES.glob("*.toml")} == {*SHAPES, "demo", *real}


def test_the_dimensions_are_the_published_ones(table: tuple[str, Path, Path]) -> None:
    name, _, model = table
    assert read_shape(str(model)).parameters == SHAPES[name][1]


def plans_of(cell: Settings, num_blocks: int, seed: int) -> list[Plan]:
    """The plan of each strategy, by the arguments of the flow, from similarities that are drawn."""
    similar = np.random.default_rng(seed).random((num_blocks + 1, num_blocks + 1))
    similar = (similar + similar.T) / 2
    found = []
    for name in cell.strategy:
        chosen = Arguments(cell, "bfloat16").cluster(name, num_blocks)
        if (needs := STRATEGIES[name].needs) == "clusters":
            evidence: Any = adjacent_clusters(similar[1:, 1:], chosen["num_kept"], chosen["linkage"])
        else:
            errors = np.where(np.triu(similar[1:, 1:], 1) > 0, similar[1:, 1:], np.inf)
            evidence = {
                **{"num_blocks": num_blocks, "block_influence": similar[0, 1:]},
                **{"angular_distance": similar, "stand_in_errors": errors, "block_scores": similar[1, 1:]},
            }[needs]
        found.append(make_plan(name, evidence, chosen))
    return found


def test_every_cell_can_be_laid_out(table: tuple[str, Path, Path]) -> None:
    """Everything short of weights, on a model without memory: plan, emulator, what of it is trained and distilled."""
    name, file, folder = table
    cells, config = cells_of(file, folder), SHAPES[name][0]()
    assert len(cells) == NUM_CELLS[name]
    model, num_blocks = skeleton(config), config.num_hidden_layers
    source = ModelSource(
        **{"path": str(folder), "name": name, "weights": "", "tokenizer": "", "num_blocks": num_blocks},
        **{"family": config.model_type, "context": config.max_position_embeddings},
    )
    seen: set[tuple[Plan, TuningMethod, bool]] = set()
    for seed, cell in enumerate(cells):
        check_budget(cell, num_blocks)
        check_variant(cell, num_blocks, folder)
        check_emulators(source, cell.compress.compression, None, None, None)
        for plan in plans_of(cell, num_blocks, seed):
            assert (len(plan.kept), len(plan.tuned)) == (cell.plan.num_kept, cell.plan.num_tuned)
            if (wanted := (plan, cell.tune.tuning_method, cell.distill.enabled)) not in seen:
                seen.add(wanted)
                lay_out(model, plan, cell)


def lay_out(model: PreTrainedModel, plan: Plan, cell: Settings) -> None:
    """The emulator as a run makes it, as its folder describes it, and with what is trained of it."""
    require_rebuildable(model.config, plan.kept)
    emulator = with_layout(model, plan)
    assert len(get_blocks(emulator)) == len(plan.layout)
    shape, depth = shape_of(model.config, cell.distill.block), Depth.of(plan)
    trained = make_trained(emulator, plan, cell.tune.tuning_method).parameters()
    expected = trained_parameters(shape, depth, trained_of(cell, shape))
    assert sum(parameter.numel() for parameter in trained) == expected
    if cell.distill.enabled:
        assert segments(plan)
        frozen = FrozenBlocks(emulator, plan, model, cell.distill.hidden_weight).parameters()
        assert sum(parameter.numel() for parameter in frozen) == len(depth.frozen) * shape.block


def test_checkpoints_of_real_models_are_rare(table: tuple[str, Path, Path]) -> None:
    """Each is some ten gigabytes: they are written a few times in a tuning, not at every fiftieth step."""
    _, file, model = table
    for cell in cells_of(file, model):
        assert cell.tune.checkpoint_steps == 500
        assert cell.distill.checkpoint_steps == 1000 or not cell.distill.enabled


def test_the_readme_has_what_the_command_prints(table: tuple[str, Path, Path]) -> None:
    name, file, model = table
    cells = make_cells(*read_sweep(file, [f"model.name={model}"]))
    total = summary(estimate_cells(cells), choose_device(None, None, UTILISATION), len(cells))["total"]
    numbers = [f"{total['flops'] / 1e18:.1f} EFLOP", f"{total['gpu_hours']:.1f}"]
    numbers += [f"{total[size] / 1e9:.0f} GB" for size in ("peak_memory_bytes", "disk_bytes")]
    lines = (TABLES.parents[1] / "README.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith(f"| [{name}.toml]")]
    assert row.endswith(f"| {len(cells)} | {' | '.join(numbers)} |")


def test_every_file_has_an_estimate(
    table: tuple[str, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    _, file, model = table
    monkeypatch.setenv("CRASH_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as ended:
        main(["plan-cost", str(file), "--set", f"model.name={model}", "--gpu", "A100", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["flops"] > 1e15
    assert not (tmp_path / "home").exists()
    # What the cells have in common is counted once: one capture for each task, whatever the number of variants.
    rows = {row["stage"]: row["count"] for row in found["stages"]}
    tasks = {cell.task.name for cell in cells_of(file, model)}
    assert rows["capture"] == rows["similarity"] == len(tasks)
    assert found["stages_asked_for"] > found["total"]["count"]


def test_table_1_has_the_published_rows_and_budgets(tmp_path: Path) -> None:
    model = write_config("opt-1.3b-table1", tmp_path / "model")
    cells = cells_of(TABLES / "opt-1.3b-table1.toml", model)
    assert {cell.task.name for cell in cells} == {
        *("openbookqa", "arc_easy", "arc_challenge", "webqs", "piqa", "sciq", "race", "hellaswag")
    }
    assert {name for cell in cells for name in cell.strategy} == ROWS_OF_TABLE_1
    assert {(cell.plan.num_kept, cell.plan.num_tuned) for cell in cells} == {(12, 4)}
    assert {cell.tune.learning_rates for cell in cells} == {(2e-5, 5e-5, 8e-5, 1e-4)}
    assert {cell.tune.num_epochs for cell in cells} == {5}
    assert sum(cell.distill.enabled for cell in cells) == 8
    for share in ("none", "all"):
        assert sum(cell.strategy == ("crash",) and cell.plan.share == share for cell in cells) == 8


def test_a_cell_alone_costs_less_than_its_sweep(table: tuple[str, Path, Path]) -> None:
    _, file, model = table
    cells = cells_of(file, model)
    whole = sum(cost.flops for cost in estimate_cells([({}, cell) for cell in cells]).stages.values())
    alone = [sum(cost.flops for cost in estimate_cells([({}, cell)]).stages.values()) for cell in cells]
    assert max(alone) < whole < sum(alone)
