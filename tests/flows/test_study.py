"""The real command: a study of two data sets with every part, found again when run again, and its page in a browser."""

import json
import re
from pathlib import Path

import pytest

from tests.flows.commands import DEMO, TRACKED, artifacts, crash, small_settings, stages
from tests.store.browsing import browsing
from tests.tasks.chain import write_model

pytestmark = [pytest.mark.usefixtures("one_prefect")]
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
STAGES = {"capture": 8, "structure": 4, "similarity": 2, "cross": 4, "dataset_distances": 1, "weights": 1, "lens": 1}
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
    first = crash("study", str(settings), *TRACKED)
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

    planned = crash("plan-cost", str(settings), "--study", "--json")
    assert planned.returncode == 0, planned.stderr
    rows = {row["stage"]: row for row in json.loads(planned.stdout)["stages"]}
    rows["tune"]["count"] += rows.pop("full_tune")["count"]
    # Equal plans of two cells have one emulator; that they are equal is known only when they are made.
    assert rows.pop("emulate")["count"] >= made.pop("emulate")
    assert {name: row["count"] for name, row in rows.items()} == made

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


@pytest.mark.nightly
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
    states = {parent["digest"] for parent in json.loads(cross.read_text())["parents"]}
    assert len(states) == 2, "the full model's and, with other content, the plug-in's"

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
    assert found["unlike_best_match", "against small"].keys() == {"model"}
    assert "model, small on people" in done.stdout
