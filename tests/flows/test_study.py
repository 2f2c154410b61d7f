"""The real command: a study of two data sets with every part, found again when run again, and its page in a browser."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.reading import read_study
from flows.service.submit import portable_grid
from flows.settings import Settings
from flows.study_cells import make_cells_of, open_inputs
from flows.study_checks import moved_tuning, needed_tunings, study_bytes
from flows.study_parts import between
from tasks.core.errors import InputError
from tests.flows.commands import DEMO, artifacts, crash, small_settings, stages
from tests.store.browsing import browsing
from tests.tasks.chain import write_model

pytestmark = pytest.mark.xdist_group("study")
STUDY = f"""
[study]
num_samples = [8, 16]
poolings = ["last"]
num_bootstraps = 5
against = "emulator"
lens_steps = 4
lens_rows = 16
lens_batch_size = 8
trajectory_rows = 1
trajectory_positions = 8
distance_tokens = 64
importance_rows = 8
resolution_line = 3
resolution_plane = 3
landscape_rows = 4
[[variants]]
name = "questions"
[[variants]]
name = "biographies"
task = {{name = "biographies", kind = "text", data = "{DEMO / "text"}"}}
study.parts = ["similarity", "datasets"]
"""
# Of the first cell every stage; of the second its states, compared with those of its emulators, once for each pooling.
STAGES = {"capture": 8, "structure": 4, "similarity": 2, "cross": 4, "datasets": 1, "weights": 1, "lens": 1}
STAGES |= {"trajectory": 1, "distances": 2, "importance": 1, "landscape": 1, "findings": 1, "tune": 3, "plug_in": 2}

# Some of the figures of every part that has heatmaps.
HEATMAPS = {"similarity-linear-cka", "cross-debiased-cka", "modules", "importance_pairs", "landscape_plane"}
HEATMAPS |= {"weights-distance", "datasets", "lens_distances_tuned", "lens_distances_logit", "lens_trajectory_1_1"}
# Where the first row and column of a picture's first heatmap meet, in the window.
LOWEST = """(() => { const picture = document.querySelector('#NAME .picture'); picture.scrollIntoView();
const { box: [left, first, right, last], rows, columns } = JSON.parse(picture.querySelector('script').textContent)[0];
const frame = picture.getBoundingClientRect();
const x = left + 0.75 * (right - left) / columns.length, y = first + 0.75 * (last - first) / rows.length;
window.scrollBy(0, frame.top + frame.height * y - window.innerHeight / 2);
const moved = picture.getBoundingClientRect();
return [moved.left + moved.width * x, moved.top + moved.height * y] })()"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of seconds."""
    path = small_settings(tmp_path_factory.mktemp("study"))
    path.write_text(path.read_text() + STUDY)
    return path


def page_of(settings: Path) -> Path:
    folders = (settings.parent / "home/store/artifacts/findings").iterdir()
    return max(folders, key=lambda path: path.stat().st_mtime) / "study.html"


def test_every_part_of_a_study_is_on_its_page_and_found_again(settings, tmp_path):
    store = settings.parent / "home/store"
    first = crash("study", str(settings))
    assert first.returncode == 0, first.stdout + first.stderr
    kept = artifacts(store)
    made = stages(set(kept))
    assert {name: made[name] for name in STAGES} == STAGES
    looked_at = [
        *store.glob("artifacts/trajectory/*/trajectory.json"),
        *store.glob("artifacts/distances/*/manifest.json"),
    ]
    splits = [found.get("summary", found)["split"] for found in map(json.loads, map(Path.read_text, looked_at))]
    assert splits == ["validation"] * 3, "the lens was trained on training rows"
    page = page_of(settings)
    assert str(page) in first.stdout
    content = json.loads((page.parent / "study.json").read_text())
    assert content["cells"] == ["questions", "biographies"]
    figures = content["figures"]
    assert sorted(path.stem for path in page.parent.glob("*.png")) == sorted(figures)
    assert content["private"] == ["lens_trajectory_1_1"]
    tracked = {path.name for path in (settings.parent / "home/mlflow").rglob("*") if path.is_file()}
    assert tracked >= {"study_without_words.html", "lens_depth.png", "lens_depth.csv", "study.json"}
    assert not tracked & {"study.html", "lens_trajectory_1_1.png", "lens_trajectory_1_1.csv"}
    assert "1 figure(s) with words of rows stay in" in first.stdout + first.stderr
    assert sorted(path.stem for path in page.parent.glob("*.csv")) == sorted(figures)
    with browsing(page) as shown:
        assert shown.ask("Array.from(document.images).map(image => image.naturalWidth > 100)") == [True] * len(figures)
        assert shown.ask("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut at laptop width"
        links = shown.ask("Array.from(document.querySelectorAll('nav a'), link => link.hash)")
        assert len(links) == 7
        assert all(shown.ask(f"!!document.querySelector('{link}')") for link in links)
        assert set(shown.ask("Array.from(document.querySelectorAll('figure:has(.cells)'), one => one.id)")) >= HEATMAPS
        for name in HEATMAPS:
            shown.point(*shown.ask(LOWEST.replace("NAME", name)))
            words = shown.ask(f"document.querySelector('#{name} .value').textContent")
            assert re.fullmatch(r".+, .+: (-?[0-9.e+-]+.*|no value)", words), (name, words)
        assert shown.errors == []

    second = crash("study", str(settings))
    assert second.returncode == 0, second.stderr
    assert artifacts(store) == kept
    listed = crash("runs", "--home", str(settings.parent / "home")).stdout
    newest = next(line for line in listed.splitlines() if "study" in line)
    assert newest.split()[3] == "0", "nothing was computed the second time"


def test_a_part_alone_computes_nothing_else(settings, tmp_path):
    alone = [
        "--set",
        'study.parts=["weights", "datasets"]',
        "--set",
        f"place.home={tmp_path / 'home'}",
        "--set",
        "variants=",
    ]
    done = crash("study", str(settings), *alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(stages(set(artifacts(tmp_path / "home/store")))) == {"check", "weights", "findings"}
    assert "of model there is one data set only (people): nothing to compare" in done.stdout + done.stderr


def test_plug_ins_are_compared_and_a_tuning_of_the_store_lies_on_the_landscape(settings, tmp_path):
    """Two small studies in one store; what the first has tuned is a point of the second's filter-normalised plane."""
    store = tmp_path / "home/store"
    common = [f"place.home={tmp_path / 'home'}", "variants=", "tune.num_steps=2", "task.num_train=16"]
    first = ["strategy=uniform", 'study.parts=["similarity"]', "study.against=plug_in", "study.poolings=[]"]
    done = crash("study", str(settings), *(word for each in [*common, *first] for word in ("--set", each)))
    assert done.returncode == 0, done.stdout + done.stderr
    made = stages(set(artifacts(store)))
    assert (made["tune"], made["plug_in"], made["capture"], made["cross"]) == (1, 1, 2, 1)
    (old,) = store.glob("artifacts/plug_in/*")
    (cross,) = store.glob("artifacts/cross/*/manifest.json")
    assert json.loads(cross.read_text())["summary"]["mean_best_match"] < 1.0, "the plug-in differs from the full model"

    points = ['study.points=["initial", "crash", "old"]', f'study.other={{old="{old.name[:16]}"}}']
    second = ["strategy=crash", 'study.parts=["landscape", "weights"]', "study.axes=filter", *points]
    done = crash("study", str(settings), *(word for each in [*common, *second] for word in ("--set", each)))
    assert done.returncode == 0, done.stdout + done.stderr
    made = stages(set(artifacts(store)))
    assert (made["tune"], made["plug_in"]) == (2, 2), "the full model is not tuned"
    (written,) = store.glob("artifacts/landscape/*/landscape.json")
    found = json.loads(written.read_text())
    assert found["points"] == ["initial", "crash", "old"]
    assert found["plane"]["axes"] == "filter"
    (moved,) = store.glob("artifacts/weights/*/manifest.json")
    assert json.loads(moved.read_text())["summary"]["relative_change"] > 0


def one_cell(settings: Path, *changes: str) -> Settings:
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

    def __init__(self, settings: Settings, label: str, rows: dict[str, str]) -> None:
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


def test_models_of_different_width_are_compared_on_the_same_rows(settings, tmp_path):
    write_model(tmp_path / "small")
    both = f'model.name=["{DEMO / "model"}", "{tmp_path / "small"}"]'
    alone = ["--set", both, "--set", "variants=", "--set", "study.against=", "--set", "study.poolings=[]"]
    where = ["--set", 'study.parts=["similarity"]', "--set", f"place.home={tmp_path / 'home'}"]
    done = crash("study", str(settings), *alone, *where)
    assert done.returncode == 0, done.stdout + done.stderr
    made = stages(set(artifacts(tmp_path / "home/store")))
    assert (made["capture"], made["structure"], made["cross"], made["tune"]) == (2, 2, 1, 0)
    (written,) = tmp_path.glob("home/store/artifacts/findings/*/study.json")
    found = {(each["fact"], each["label"]): each["values"] for each in json.loads(written.read_text())["numbers"]}
    assert found["num_modules", ""].keys() == {"model", "small"}
    assert found["mean_best_match", "against small"].keys() == {"model"}
    assert "model, small on people" in done.stdout


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
        (["tune.trained=frozen"], "nothing is plugged in; choose from tuned, all"),
        (
            ["tune.trained=frozen", "full_tune.enabled=false", 'study.parts=["importance"]'],
            "study.rewound = true and full_tune.enabled = false: frozen blocks stay with the emulator",
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
