"""The demo's comparison: every cell is possible, with the strategies and settings that it names."""

from pathlib import Path

from flows.running.inputs import check_budget
from flows.settings.grid import make_cells
from flows.settings.reading import READY, read_sweep


def test_every_cell_of_the_demos_sweep_is_possible():
    cells = make_cells(*read_sweep(READY / "demo.toml"))
    assert [values["variant"] for values, _ in cells] == [
        *("uniform", "crash", "crash without sharing", "optimal linkage"),
        *("random", "reverse", "block_influence", "KD"),
    ]
    for _, cell in cells:
        check_budget(cell, 12)
        assert cell.tune.seeds == (0, 1, 2)
        assert Path(cell.model.name, "config.json").is_file()
        assert cell.task.data
        assert Path(cell.task.data, "train.jsonl").is_file()
    distilled = [cell.model_dump()["distill"] for _, cell in cells if cell.model_dump()["distill"]["enabled"]]
    assert len(distilled) == 1
    assert Path(distilled[0]["data"]).is_dir()
