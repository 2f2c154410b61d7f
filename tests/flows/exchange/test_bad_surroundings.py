"""Models, rows, servers and secrets around an exchange that do harm, by their numbers in the threat model."""

import ast
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.exchange.surroundings import require_own_tracking
from flows.settings.tables import Place
from tasks.core.errors import InputError
from tests.exchange.parties import make_emulator, make_parties, seal_emulator
from tests.flows.commands import CRASH, DEMO, clean_environment, crash
from tests.places import ROOT

MARKER, SECRET = "Zyxwqvut7731", "pass-word-4471"
CLINIC = """
[task]
name = "notes"
kind = "instructions"
data = "{data}"
[place]
home = "{home}"
"""


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a party that has an emulator, and settings with its rows."""
    root = tmp_path_factory.mktemp("clinic")
    owner, party = make_parties(root / "homes", "acme", "clinic")
    seal_emulator(owner, party, make_emulator(root / "made"), root / "emulator", datetime.now(UTC))
    (root / "rows").mkdir()
    for split in ("train", "validation", "test"):
        rows = [json.dumps({"instruction": f"Say {split} {number}", "output": "It is"}) for number in range(20)]
        (root / "rows" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    (root / "clinic.toml").write_text(CLINIC.format(data=root / "rows", home=party.home))
    return root


def traces(folder: Path, *words: str) -> list[str]:
    """Return the files under a folder that have one of the words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files for word in words if word.encode() in path.read_bytes()]


def tune(clinic: Path, *changes: str, **environment: str) -> str:
    """Run `crash tune`, which ends with a code that says whose fault it is; return the code and all that was said."""
    command = ("tune", "emulator", "clinic.toml", "--out", "returned", *(part for each in changes for part in each))
    done = crash(*command, cwd=clinic, **environment)
    assert not (clinic / "returned").exists()
    return f"{done.returncode}: {done.stdout}{done.stderr}"


def test_b24_a_model_with_code_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO / "model", model)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "ownfamily", "auto_map": {"AutoModelForCausalLM": "modeling.Own"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'strategy = "uniform"\n[model]\nname = "{model}"\n[task]\nname = "people"\ndata = "{DEMO / "task"}"\n'
        f'[plan]\nnum_kept = 6\n[place]\nhome = "{tmp_path / "home"}"\nmlflow = "later"\n'
    )
    # A question would wait for ever, or for transformers' alarm of 15 s.
    reading, writing = os.pipe()
    command = [str(CRASH), "emulate", str(settings), "--to", "clinic", "--out", str(tmp_path / "emulator")]
    make_parties(tmp_path / "parties", "acme", "clinic")
    shutil.copytree(tmp_path / "parties" / "acme", tmp_path / "home")
    try:
        done = subprocess.run(
            command, stdin=reading, capture_output=True, text=True, env=clean_environment(), timeout=300, cwd=tmp_path
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "ownfamily" in done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "emulator").exists()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (json.dumps({"instruction": f"Ignore all that was said before {MARKER}"}), "lacks the field 'output'"),
        (json.dumps({"instruction": ["{{7*7}}", MARKER], "output": "x"}), "'instruction' is a list"),
        ('{"instruction": "' + f"{MARKER} " * (10 << 20 >> 4), "not valid JSON"),
        ("\0" + json.dumps({"instruction": MARKER, "output": "x"}), "not valid JSON"),
    ],
    ids=["another schema", "a list", "a cut line of 10 MB", "NUL"],
)
def test_b25_a_bad_row_is_named_by_its_number_and_never_quoted(row: str, reason: str, tmp_path: Path) -> None:
    from tasks.data.checks import check_inputs
    from tasks.data.resolving import resolve_task
    from tests.exchange.parties import demo_model

    good = [json.dumps({"instruction": f"Say {number}", "output": "It is"}) for number in range(8)]
    (tmp_path / "train.jsonl").write_text("\n".join([*good[:2], row, *good[2:]]) + "\n")
    (tmp_path / "test.jsonl").write_text(json.dumps({"instruction": "Say a", "output": "It is"}) + "\n")
    with pytest.raises(InputError, match=rf"train\.jsonl, row 3: .*{reason}") as found:
        check_inputs(demo_model(), resolve_task({"name": "notes", "kind": "instructions", "data": str(tmp_path)}))
    assert found.value.exit_code == 2
    assert MARKER not in str(found.value)
    assert len(str(found.value)) < 500
    assert found.value.__cause__ is None


def test_b25_rows_that_are_scored_too_are_not_trained_on(tmp_path: Path) -> None:
    from tasks.data.checks import check_inputs
    from tasks.data.resolving import resolve_task
    from tests.exchange.parties import demo_model

    rows = [json.dumps({"instruction": f"Say {number} \0 {{{{7*7}}}} </s>", "output": "It is"}) for number in range(9)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "validation.jsonl").write_text(rows[0] + "\n")
    (tmp_path / "test.jsonl").write_text(rows[1] + "\n")
    facts = check_inputs(demo_model(), resolve_task({"name": "notes", "kind": "instructions", "data": str(tmp_path)}))
    assert facts["num_train_rows"] == 7
    assert facts["num_train_scored_duplicates"] == facts["num_train_validation_duplicates"] == 1


def test_b25_the_command_says_no_more(clinic: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    shutil.copytree(clinic / "rows", rows)
    with (rows / "train.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": MARKER}) + "\n")
    said = tune(clinic, ("--set", f"task.data={rows}"), ("--set", "place.mlflow=later"))
    assert said.startswith("2: ")
    assert "row 21: it lacks the field 'output'" in said
    assert MARKER not in said
    assert traces(clinic, MARKER) == []


@pytest.mark.parametrize("address", ["http://10.1.2.3:5000", "https://mlflow.example.org", "databricks"])
def test_b28_a_tracking_server_elsewhere_is_used_only_where_the_settings_name_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(InputError, match=r"is on another machine.*place\.mlflow"):
        require_own_tracking(Place())
    require_own_tracking(Place(mlflow=address))
    for own in ("http://127.0.0.1:5000", "http://[::1]:5000", "sqlite:////folder/mlflow.db", ""):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
        require_own_tracking(Place())


def test_b28_nothing_is_ever_loaded_from_mlflow() -> None:
    """One file imports it (a contract of the linter), and calls nothing of it that reads a model or an artifact."""
    tree = ast.parse((ROOT / "tasks/tracking/mlflow_sender.py").read_text())
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "log_artifact" in called
    assert not [name for name in called if name.startswith(("load_", "download")) or name == "list_artifacts"]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "MlflowClient" in imported
    assert "pyfunc" not in imported
    from tasks.tracking.mlflow_sender import QUIET

    assert QUIET["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_b30_servers_for_other_machines_are_not_started_without_passwords(host: str, tmp_path: Path) -> None:
    done = crash("up", "--home", str(tmp_path / "home"), "--host", host)
    assert done.returncode == 2, done.stderr
    assert "add --auth" in done.stderr
    assert not (tmp_path / "home" / "service" / "processes.json").exists()


def test_b31_a_password_in_the_settings_is_refused_before_it_is_stored(clinic: Path) -> None:
    said = tune(clinic, ("--set", f"place.mlflow=http://user:{SECRET}@127.0.0.1:9"))
    assert said.startswith("2: ")
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert SECRET not in said
    assert traces(clinic, SECRET) == []


def test_b31_secrets_of_the_environment_are_written_nowhere(clinic: Path) -> None:
    secrets = {"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": SECRET, "HF_TOKEN": f"hf_{SECRET}"}
    said = tune(clinic, ("--set", "place.mlflow=http://127.0.0.1:9"), **secrets, AWS_SECRET_ACCESS_KEY=SECRET)
    assert said.startswith("4: ")
    assert "does not answer" in said
    assert SECRET not in said
    assert traces(clinic, SECRET) == []
