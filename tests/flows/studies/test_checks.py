"""Before a study computes: what is refused, what it would tune and write, which cells it has, what it leaves out."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.service.submit import portable_grid
from flows.settings.kinds import StudySettings
from flows.studies.cells import make_cells_of, open_inputs, read_study
from flows.studies.checks import moved_tuning, needed_tunings, study_bytes
from flows.studies.parts import between
from tasks.core.errors import InputError
from tests.flows.commands import DEMO, small_settings
from tests.tasks.chain import write_model

STUDY = f"""
[study]
against = "emulator"
[[variants]]
name = "questions"
[[variants]]
name = "biographies"
task = {{name = "biographies", kind = "text", data = "{DEMO / "text"}"}}
study.parts = ["similarity", "datasets"]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Two data sets with every part for the first."""
    path = small_settings(tmp_path)
    path.write_text(path.read_text() + STUDY)
    return path


def one_cell(settings: Path, *changes: str) -> StudySettings:
    ((_, cell),) = make_cells_of(*read_study(settings, ["variants=", *changes]))
    return cell


@pytest.mark.parametrize(
    ("changes", "needed", "moved"),
    [
        ((), ("full", "uniform", "crash"), "full"),
        (('study.points=["initial", "crash"]', "study.rewound=false"), ("crash",), "crash"),
        (('study.parts=["weights", "importance"]',), ("full",), "full"),
        (('study.parts=["weights", "importance"]', "full_tune.enabled=false"), ("uniform",), "uniform"),
        (('study.parts=["weights"]', "study.against=plug_in"), (), None),
        (('study.parts=["weights", "similarity"]', "study.against=plug_in"), ("uniform", "crash"), "uniform"),
        (('study.parts=["weights", "similarity"]', "study.against=plug_in", "tune.method=lora"), None, None),
    ],
)
def test_only_what_a_part_asks_for_is_tuned(settings, changes, needed, moved):
    cell = one_cell(settings, *changes)
    assert needed in (None, needed_tunings(cell))
    assert moved_tuning(cell) == moved


def test_the_disk_check_counts_what_is_written_out(settings, tmp_path):
    _, model = write_model(tmp_path / "model")
    weights = (tmp_path / "model/model.safetensors").stat().st_size
    alone = 'study.parts=["similarity"]'
    small = ("plan.num_kept=3", "plan.num_tuned=1", f"model.name={tmp_path / 'model'}", alone)
    nothing = study_bytes(one_cell(settings, *small, "study.against="), model)
    emulators = study_bytes(one_cell(settings, *small, "study.against=emulator"), model)
    assert emulators - nothing == pytest.approx(2 * weights * 3 / 6, rel=0.05)
    one = study_bytes(one_cell(settings, *small, "study.against=plug_in", "strategy=uniform"), model)
    landscape = ('study.parts=["landscape"]', 'study.points=["initial", "uniform"]', "strategy=uniform")
    tuned = study_bytes(one_cell(settings, *small[:-1], *landscape), model)
    assert one - tuned == pytest.approx(weights, rel=0.05), "the same tuning, and the model that is written out"


class Cell:
    """What `between` asks of a cell; it would fail if it were asked for states."""

    def __init__(self, settings: StudySettings, label: str, rows: dict[str, str]) -> None:
        self.label, self.rows = label, rows
        self.model, self.task = "model", "people"
        self.settings = settings
        self.run = SimpleNamespace(model=label)


def test_why_two_models_are_not_compared_is_said(settings, caplog):
    rows = {"task": "people", "support.pooling": "last", "support.num_rows": "8"}
    own = one_cell(settings, 'study.parts=["similarity"]', "study.against=")
    cells: Any = [Cell(own, "one", rows), Cell(own, "two", rows | {"support.pooling": "mean"})]
    between(cells)
    assert "one and two are not compared by CKA" in caplog.text
    assert caplog.text.rstrip().endswith("they differ in support.pooling")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ['study.parts=["lenses"]'],
            r"study\.parts\.0: Input should be 'similarity', 'lens', 'importance', 'landscape'",
        ),
        (["study.part=lens"], r"unknown setting study\.part\. Did you mean parts\? Choose from: parts, num_samples"),
        (['study.parts=["lens", "lens"]'], "names one twice"),
        (['study.points=["initial", "crahs"]'], r"has 'crahs'; choose from initial, full, uniform, crash"),
        (['study.points=["initial"]'], "needs at least two models; choose from initial, full, uniform, crash"),
        (["tune.method=adapter"], "adapters are modules of their own.*choose from blocks, lora, bitfit"),
        (["tune.method=prompt"], "a prompt changes no block.*choose from blocks, lora, adapter, bitfit"),
        (["tune.trained=frozen"], "nothing is plugged in; choose from tuned, all"),
        (
            ["tune.trained=frozen", "full_tune.enabled=false", 'study.parts=["importance"]'],
            "study.rewound = true and full_tune.enabled = false: frozen blocks stay with the emulator",
        ),
        (
            ["strategy=scaleot", "distill.data=d", "variants="],
            "with the harmonizers of strategy scaleot: emulators are captured as plain",
        ),
        (["study.num_bootstraps=1"], r"study\.num_bootstraps: Input should be greater than or equal to 2"),
        (["study.importance_rows=1"], r"study\.importance_rows: Input should be greater than or equal to 2"),
        (["study.landscape_rows=1"], r"study\.landscape_rows: Input should be greater than or equal to 2"),
        (["study.lens_rows=1"], r"study\.lens_rows: Input should be greater than or equal to 2"),
        (["study.distance_tokens=1"], r"study\.distance_tokens: Input should be greater than or equal to 2"),
        (["study.extent=[4, -4]"], "give the smaller coordinate first"),
        (["study.num_samples=[2]"], "greater than or equal to 4"),
        (['study.other={full="x"}'], "a model of the study's own; rename it"),
        (['study.points=["full", "crash"]', "full_tune.enabled=false"], 'points has "full", but full_tune.enabled'),
        (["plan.num_kept=[5, 6]", "variants="], "a study has no axis plan.num_kept: lists make cells of model.name"),
        (['study.parts=["datasets"]', "variants="], "there is one only: give task.name a list"),
    ],
)
def test_bad_settings_are_refused_with_their_name_and_the_choices(settings, changes, message):
    with pytest.raises(InputError, match=message):
        read_study(settings, changes)


def test_a_missing_tuning_is_refused_before_anything_is_computed(settings, tmp_path):
    changes = [f"place.home={tmp_path / 'home'}", 'study.other={old="abc"}', "variants="]
    with pytest.raises(InputError, match=r"study\.other\.old = 'abc': there is no such tuning in .*--keys"):
        open_inputs(make_cells_of(*read_study(settings, changes)))
    assert not list(tmp_path.glob("home/store/artifacts/capture/*"))


def test_cells_are_named_by_what_tells_them_apart(settings):
    base, axes = read_study(settings, ['model.name=["a/one", "b/two"]', "variants="])
    assert [label for label, _ in make_cells_of(base, axes)] == ["one", "two"]
    base, axes = read_study(settings, ['model.name=["a/one", "b/one"]', "variants="])
    assert [label for label, _ in make_cells_of(base, axes)] == ["model.name=a/one", "model.name=b/one"]
    base, axes = read_study(settings, ['model.name=["a/one", "b/two"]'])
    labels = ["one · questions", "one · biographies", "two · questions", "two · biographies"]
    assert sorted(label for label, _ in make_cells_of(base, axes)) == sorted(labels)
    base, axes = read_study(settings, ["tune.seeds=[3, 4]", "variants="])
    assert [cell.tune.seeds for _, cell in make_cells_of(base, axes)] == [(3,)]


def test_folders_of_a_grid_are_absolute_on_the_pool(settings, monkeypatch):
    monkeypatch.chdir(DEMO)
    base, axes = read_study(settings, ['model.name=["model", "hub/name"]'])
    found = portable_grid(axes)
    assert found["model.name"] == [str(DEMO / "model"), "hub/name"]
    assert [each["name"] for each in found["variant"]] == ["questions", "biographies"]
    assert found["variant"][1]["task.data"] == str(DEMO / "text")
    assert [label for label, _ in make_cells_of(base, found)] == [label for label, _ in make_cells_of(base, axes)]


def test_the_demos_study_is_valid():
    made = make_cells_of(*read_study(DEMO / "study.toml"))
    assert {part for _, cell in made for part in cell.study.parts} >= {"lens", "landscape", "datasets"}
    assert re.search(r"crash study flows/demo/study.toml", (DEMO / "study.toml").read_text())
