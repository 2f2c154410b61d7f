"""The ready settings: every cell of every file is possible with the real model's dimensions, and has an estimate."""

import json
from pathlib import Path

import pytest

from flows.cli import main
from flows.cost import estimate_cells
from flows.grid import make_cells
from flows.inputs import check_budget
from flows.reading import read_sweep
from flows.settings import Settings
from tasks.core.anatomy import require_rebuildable
from tasks.core.plan import uniform_plan
from tasks.store.model_shapes import read_shape
from tests.flows.published_shapes import SHAPES, write_config

TABLES = Path(__file__).resolve().parents[2] / "flows" / "tables"
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
    """The demo's comparison is run whole, and its table is in the README."""
    assert {file.stem for file in TABLES.glob("*.toml")} == {*SHAPES, "demo"}


def test_the_dimensions_are_the_published_ones(table: tuple[str, Path, Path]) -> None:
    name, _, model = table
    assert read_shape(str(model)).parameters == SHAPES[name][1]


def test_every_cell_has_a_plan(table: tuple[str, Path, Path]) -> None:
    name, file, model = table
    cells, config = cells_of(file, model), SHAPES[name][0]()
    assert len(cells) == NUM_CELLS[name]
    num_blocks = config.num_hidden_layers
    for cell in cells:
        check_budget(cell, num_blocks)
    budgets = {(cell.plan.num_kept, cell.plan.num_tuned) for cell in cells}
    for num_kept, num_tuned in budgets:
        require_rebuildable(config, uniform_plan(num_blocks, num_kept, num_tuned).kept)


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
    assert sum(cell.strategy == ("crash",) and cell.plan.share == "none" for cell in cells) == 8


def test_a_cell_alone_costs_less_than_its_sweep(table: tuple[str, Path, Path]) -> None:
    _, file, model = table
    cells = cells_of(file, model)
    whole = sum(cost.flops for cost in estimate_cells([({}, cell) for cell in cells]).stages.values())
    alone = [sum(cost.flops for cost in estimate_cells([({}, cell)]).stages.values()) for cell in cells]
    assert max(alone) < whole < sum(alone)
