"""The ready settings of a real language model: every cell is possible with its dimensions, and its rows are there."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from flows.cost.estimates import estimate_cells
from flows.running.inputs import check_budget, check_variant
from flows.settings.grid import make_cells
from flows.settings.reading import read_settings, read_sweep
from flows.settings.run import Settings
from tasks.core.blocks.locate_blocks import skeleton
from tasks.data.resolving import resolve_task
from tasks.models.shape import read_shape
from tests.flows.test_tables import TABLES, lay_out, plans_of
from tests.places import ROOT

NUM_BLOCKS, NUM_PARAMETERS = 30, 134_515_008
RUN, EVIDENCE = (TABLES / f"smollm2-135m{name}.toml" for name in ("", "-evidence"))
ROWS = {"train": 1000, "validation": 500, "test": 500}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SmolLM2-135M's config alone."""
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    config = LlamaConfig(
        **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": NUM_BLOCKS, "vocab_size": 49152},
        **{"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192},
        **{"tie_word_embeddings": True, "dtype": "bfloat16", "architectures": ["LlamaForCausalLM"]},
    )
    config.save_pretrained(folder)
    return folder


def cells(model: Path) -> list[Settings]:
    """Of both files; the first is a run with several strategies."""
    change = [f"model.name={model}"]
    return [read_settings(RUN, change), *(cell for _, cell in make_cells(*read_sweep(EVIDENCE, change)))]


def test_the_dimensions_are_the_published_ones(model: Path) -> None:
    shape = read_shape(str(model))
    assert (shape.num_blocks, shape.parameters) == (NUM_BLOCKS, NUM_PARAMETERS)


def test_every_cell_can_be_laid_out(model: Path) -> None:
    empty = skeleton(LlamaConfig.from_pretrained(model))
    found = cells(model)
    assert len(found) > 8
    for seed, cell in enumerate(found):
        check_budget(cell, NUM_BLOCKS)
        check_variant(cell, NUM_BLOCKS, model)
        for plan in plans_of(cell, NUM_BLOCKS, seed):
            assert len(plan.kept) == (NUM_BLOCKS if cell.compress.method == "gradot" else 21)
            lay_out(empty, plan, cell)


def test_every_cell_has_an_estimate(model: Path) -> None:
    """The rows are measured, since they are here."""
    found = cells(model)
    total = estimate_cells([({}, cell) for cell in found])
    assert sum(cost.stage == "tune" for cost in total.stages.values()) > len(found)


def test_the_rows_are_shipped_with_their_licence(model: Path) -> None:
    task = resolve_task(cells(model)[0].task.model_dump())
    for split, count in ROWS.items():
        rows = [json.loads(line) for line in Path(task.files[split]).read_text().splitlines()]
        assert len(rows) == count
        assert all(row["question"] and row["answerKey"] in row["choices"]["label"] for row in rows)
    folder = Path(task.files["train"]).parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1.5e6
    text = (folder / "README.md").read_text()
    assert all(word in text for word in ("CC BY-SA 4.0", "1803.05457", "allenai/ai2_arc"))


def test_make_real_runs_this_file() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert f"crash run {RUN.relative_to(ROOT)}" in makefile
