"""Compressed and distilled emulators through settings and the flow: refused early, in no key when off, one run."""

import json
from pathlib import Path

import pytest

from flows.running.arguments import Arguments
from flows.running.inputs import MIN_STAND_IN_ROWS, Inputs, check_budget
from flows.settings.reading import read_settings
from flows.settings.run import Settings
from tasks.core.errors import InputError
from tasks.core.stand_ins.fitting import HELD_OUT
from tasks.core.tuning.settings import Elevation
from tasks.data.emulator_checks import require_same_shape
from tests.flows.commands import DEMO, artifacts, crash, stages
from tests.tasks.chain import write_model

pytestmark = pytest.mark.usefixtures("one_prefect")

MINIMAL = '[model]\nname = "m"\n[task]\nname = "t"\n[plan]\nnum_kept = 6\n'
DISTILL = '[distill]\nenabled = true\ndata = "d"\nnum_steps = 10\nwarmup_steps = 2\n'
RUN = """
strategy = "fixed"
[model]
name = "{model}"
precision = "float32"
[task]
name = "people"
data = "{demo}/task"
num_train = 24
num_test = 12
[support]
num_rows = 12
split = "train"
[plan]
num_kept = 4
num_tuned = 2
kept = [0, 1, 3, 5]
tuned = [0, 3]
[compress]
method = "{method}"
ratio = 0.25
rank = 6
[distill]
enabled = true
data = "{demo}/text"
num_steps = 3
warmup_steps = 1
block = 48
batch_size = 4
[tune]
num_steps = 2
batch_size = 4
[full_tune]
enabled = false
[place]
home = "{home}"
"""


def read(folder: Path, more: str) -> Settings:
    path = folder / "settings.toml"
    path.write_text(MINIMAL + more)
    return read_settings(path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[compress]\nmethod = "shrink"\n', "'none', 'prune', 'quantise', 'low_rank' or 'gradot'"),
        ('[compress]\nmethod = "prune"\n', 'compress: method = "prune" needs ratio'),
        ('[compress]\nmethod = "prune"\nratio = 1.0\n', r"compress\.ratio: .*less than 1"),
        ('[compress]\nmethod = "quantise"\nbits = 0\n', r"compress\.bits: .*greater than or equal to 1"),
        ('[compress]\nmethod = "quantise"\nbits = 17\n', r"compress\.bits: .*less than or equal to 16"),
        ('[compress]\nmethod = "low_rank"\nrank = 0\n', r"compress\.rank"),
        ('[compress]\nmethod = "low_rank"\nrank = 1.5\n', r"compress\.rank"),
        ('[compress]\nmethod = "gradot"\nrank = 0.5\n', 'compress: method = "gradot" needs channels'),
        (DISTILL + "loss_margin = 0\n", r"distill\.loss_margin: .*greater than 0"),
        ("[distill]\nenabled = true\n", "enabled = true needs data and num_steps"),
        (DISTILL.replace("warmup_steps = 2", "warmup_steps = 10"), "warmup_steps = 10 but num_steps = 10"),
        (DISTILL.replace("num_steps = 10\nwarmup_steps = 2", "num_steps = 10"), "warmup_steps = 2000 but num_steps"),
        (DISTILL + '[compress]\nmethod = "quantise"\nbits = 4\n', "take the weights off their levels"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, more)


@pytest.mark.parametrize("more", [DISTILL, '[compress]\nmethod = "prune"\nratio = 0.5\n'])
def test_plans_without_frozen_blocks_are_refused(tmp_path: Path, more: str) -> None:
    for strategy, plan in (("uniform", ""), ("fixed", "kept = [0, 5]\ntuned = [0, 5]\n")):
        text = MINIMAL.replace("num_kept = 6", f"num_kept = {4 if strategy == 'uniform' else 6}\n{plan}")
        path = tmp_path / "settings.toml"
        path.write_text(f'strategy = "{strategy}"\n{text}{more}')
        with pytest.raises(InputError, match="but every kept block is tuned"):
            check_budget(read_settings(path), 12)
        path.write_text(f'strategy = "{strategy}"\n{text}')
        check_budget(read_settings(path), 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("strategy=crash", "plan.num_kept=4"),
            'plan.share = "linear" changes frozen blocks, but every kept block is tuned',
        ),
        (
            ("strategy=fixed", "plan.kept=[0, 3, 6]", "plan.tuned=[0, 3, 6]"),
            r"no linear stand-in is possible for removed blocks 1-2 \(block 0 in front is tuned\), 4-5 .*7-11",
        ),
        (
            ("strategy=fixed", "plan.kept=[4, 11]", "plan.tuned=[4]"),
            r"removed blocks 0-3 \(no block is in front\), 5-10 \(block 4 in front is tuned\)",
        ),
    ],
)
def test_linear_stand_ins_that_cannot_be_are_refused(tmp_path: Path, changes: tuple[str, ...], message: str) -> None:
    (tmp_path / "settings.toml").write_text(MINIMAL)
    with pytest.raises(InputError, match=message):
        check_budget(read_settings(tmp_path / "settings.toml", [*changes, "plan.share=linear"]), 12)


def test_keeping_every_block_with_linear_stand_ins_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(MINIMAL)
    for strategy in ("uniform", "spans", "crash"):
        changes = [f"strategy={strategy}", "plan.share=linear", "plan.num_kept=12", "plan.num_tuned=12"]
        check_budget(read_settings(tmp_path / "settings.toml", changes), 12)


def test_stand_ins_take_as_many_rows_as_are_held_out_from() -> None:
    assert MIN_STAND_IN_ROWS == HELD_OUT


def test_folders_are_found_beside_the_file(tmp_path: Path) -> None:
    for name in ("text", "teacher"):
        (tmp_path / name).mkdir()
    settings = read(tmp_path, DISTILL.replace('"d"', '"text"') + 'teacher = "teacher"\n')
    assert (settings.distill.data, settings.distill.teacher) == (str(tmp_path / "text"), str(tmp_path / "teacher"))


def test_what_is_off_is_passed_to_no_stage(tmp_path: Path) -> None:
    settings = read(tmp_path, "[compress]\nratio = 0.5\nbits = 4\n")
    assert settings.compress.compression is None
    both = read(tmp_path, DISTILL + '[compress]\nmethod = "prune"\nratio = 0.5\n')
    arguments = Arguments(both, "float32")
    assert arguments.tune(0) == Arguments(settings, "float32").tune(0)
    assert arguments.compress["how"].cache_view() == {"method": "prune", "ratio": 0.5}
    given = arguments.distill
    assert "elevation" not in given
    raised = read(tmp_path, DISTILL + "loss_margin = 4.0\nrandom_prompt = 3\n")
    assert Arguments(raised, "float32").distill == given | {"elevation": Elevation(4.0, 3)}
    assert (given["settings"].num_steps, given["settings"].learning_rate, given["block"]) == (10, 1e-4, 512)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both, on a tiny model."""
    folder = tmp_path_factory.mktemp("run")
    write_model(folder / "model")
    text = RUN.format(model=folder / "model", demo=DEMO, home=folder / "home", method="prune")
    (folder / "settings.toml").write_text(text)
    done = crash("run", str(folder / "settings.toml"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_one_run_with_both(first: Path) -> None:
    found = stages(set(artifacts(first / "home/store")))
    assert found == {
        "check": 1, "capture": 1, "similarity": 1, "cluster": 1, "emulate": 1, "compress": 1, "distill": 1, "tune": 1,
        "plug_in": 1, "evaluate": 4, "report": 1,
    }  # fmt: skip
    for manifest in (first / "home/store/artifacts/tune").glob("*/manifest.json"):
        parents = json.loads(manifest.read_text())["parents"]
        assert {parent["stage"] for parent in parents} == {"cluster", "distill"}


@pytest.mark.nightly
def test_another_compression_computes_nothing_twice_and_switching_off_needs_neither(first: Path) -> None:
    before = artifacts(first / "home/store")
    again = crash("run", str(first / "settings.toml"), "--set", "compress.method=low_rank")
    assert again.returncode == 0, again.stderr
    added = artifacts(first / "home/store").keys() - before.keys()
    new = {"check": 1, "compress": 1, "distill": 1, "tune": 1, "plug_in": 1, "evaluate": 3, "report": 1}
    assert stages(added) == new
    before = artifacts(first / "home/store")
    off = crash("run", str(first / "settings.toml"), "--set", "compress.method=none", "--set", "distill.enabled=false")
    assert off.returncode == 0, off.stderr
    added = artifacts(first / "home/store").keys() - before.keys()
    assert stages(added) == {"check": 1, "tune": 1, "plug_in": 1, "evaluate": 3, "report": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["compress.method=low_rank", "compress.rank=500"], "no weight of a block has a rank above 32"),
        (["compress.method=low_rank", "compress.rank=0.01"], "that is rank 0; take at least"),
        (["distill.teacher={demo}/model"], r"distill\.teacher = .* has num_hidden_layers 12 \(blocks\), the model 6"),
        (["distill.data={folder}"], "has no data files"),
        (["distill.data=/nowhere"], "there is no such folder, and it is not a hub id"),
        (["distill.data={folder}/short"], "fewer than one block of 48"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_anything_runs(
    tmp_path: Path, change: list[str], message: str
) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "short").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "short" / f"{split}.txt").write_text(f"Ivan Ingram was born in {split} .")
    path = tmp_path / "settings.toml"
    path.write_text(RUN.format(model=tmp_path / "model", demo=DEMO, home=tmp_path / "home", method="prune"))
    settings = read_settings(path, [each.format(demo=DEMO, folder=tmp_path) for each in change])
    with pytest.raises(InputError, match=message):
        Inputs(settings)
    assert not artifacts(tmp_path / "home/store")


def test_a_teacher_of_another_width_or_vocabulary_is_refused(tmp_path: Path) -> None:
    _, model = write_model(tmp_path / "model")
    for name, change in {
        "hidden_size": {"hidden_size": 16, "word_embed_proj_dim": 16},
        "vocab_size": {"vocab_size": 400},
    }.items():
        _, teacher = write_model(tmp_path / name, **change)
        with pytest.raises(InputError, match=f"has {name} .* a teacher needs the depth, width and vocabulary"):
            require_same_shape(Path(model.path), Path(teacher.path), teacher.name)
    require_same_shape(Path(model.path), Path(model.path), model.name)
