"""What a run finds in its environment: variables of other tools, odd folders, other encodings."""

import json
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.launch import mlflow_command
from flows.running.environment import (
    TEMPORARY_SERVER,
    check_variables,
    connection_file,
    prefect_page,
    prepare_environment,
    read_connection,
    written_connection,
)
from flows.service.config import Secrets, ServiceConfig
from flows.service.servers import Place, mlflow_server, prefect_server, worker_name
from flows.settings.reading import read_settings
from flows.sweeps.cells import on_pool
from tasks.core.errors import EnvironmentFault
from tasks.store.databases import sqlite_path
from tests.flows.commands import ROOT, TRACKED, crash, small_settings

ODD = "what? 50%2F it's #1 grün"
SETTLE = """
import json, locale, os, sys
from flows.running.environment import settle_interpreter
settle_interpreter()
print(json.dumps([sys.flags.utf8_mode, locale.getpreferredencoding(False).lower(), sys.warnoptions, sys.argv[1:]]))
"""


def test_a_run_in_an_odd_folder_behind_a_proxy_with_a_long_temporary_folder(tmp_path):
    """Everything at once: the run ends well, MLflow has all of it, and nothing lies outside of home."""
    home, scratch = tmp_path / ODD, tmp_path / ("scratch-" + "x" * 100)
    scratch.mkdir()
    settings = small_settings(tmp_path, home=str(home))
    proxies = dict.fromkeys(("ALL_PROXY", "all_proxy", "HTTP_PROXY"), "socks5://127.0.0.1:9")
    changes = ['strategy=["uniform"]', "full_tune.enabled=false", "tune.num_steps=1", "task.num_test=8"]
    options = [*TRACKED, *(part for change in changes for part in ("--set", change))]
    ended = crash(
        "run", str(settings), *options, TMPDIR=str(scratch), NO_PROXY="[::1]", LC_ALL="C", PYTHONUTF8="0", **proxies
    )
    assert ended.returncode == 0, ended.stderr
    assert "Beginning flow run" in ended.stderr
    assert "View at" not in ended.stderr
    # A slow machine may wait for the temporary server for so long that it says so; of eight rows, an emulator guesses.
    expected = ("store.patience", "guessing")
    warned = [line for line in ended.stderr.splitlines() if "WARNING" in line]
    assert not [line for line in warned if not any(words in line for words in expected)]
    database = sqlite3.connect(home / "mlflow" / "mlflow.db")
    statuses = database.execute("select distinct status from runs").fetchall()
    artifacts = list((home / "mlflow" / "artifacts").rglob("report.html"))
    database.close()
    assert statuses == [("FINISHED",)]
    assert artifacts
    assert (home / "prefect" / "prefect.db").exists()
    assert {each.name for each in tmp_path.iterdir()} == {ODD, scratch.name, settings.name}
    command = shlex.split(next(line for line in ended.stdout.splitlines() if line.startswith("MLflow:"))[8:])
    assert sqlite_path(command[command.index("--backend-store-uri") + 1]) == home / "mlflow" / "mlflow.db"


@pytest.mark.parametrize("uri", ["./mlruns", "sqlite:///:memory:"])
def test_a_tracking_address_without_use_ends_the_run_before_it_begins(tmp_path, uri):
    ended = crash("run", str(small_settings(tmp_path)), *TRACKED, MLFLOW_TRACKING_URI=uri)
    assert ended.returncode == 4
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"crash: MLFLOW_TRACKING_URI = {uri}")
    assert not list((tmp_path / "home").rglob("manifest.json"))


def test_the_connection_file_is_read_as_it_was_written_also_by_a_shell(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    values = {"CRASH_HOME": str(tmp_path / ODD / 'a"b$HOME`x`;&'), "PREFECT_API_URL": "http://127.0.0.1:4200/api"}
    path = connection_file(tmp_path)
    path.parent.mkdir()
    path.write_text(written_connection(values))
    assert read_connection(tmp_path) == values
    told = f'set -a; . {shlex.quote(str(path))}; printf "%s\\n" "$CRASH_HOME"'
    assert subprocess.run(["sh", "-c", told], capture_output=True, text=True).stdout.strip() == values["CRASH_HOME"]
    # As earlier releases wrote it.
    path.write_text("CRASH_HOME=/home/it's here\nPREFECT_API_URL=http://127.0.0.1:4200/api\n")
    assert read_connection(tmp_path)["CRASH_HOME"] == "/home/it's here"


def test_servers_of_an_odd_folder_get_addresses_that_they_understand(tmp_path, monkeypatch):
    import configparser

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    config = ServiceConfig(database="sqlite", auth=True, host="192.168.1.5")
    place = Place(tmp_path / ODD, config, Secrets(password="p", postgres="p", flask="p"), None)
    assert not set("/%?#'") & set(worker_name(place, "default"))
    environment = prefect_server(place)[1]
    assert sqlite_path(environment["PREFECT_API_DATABASE_CONNECTION_URL"]) == place.folder / "prefect.db"
    assert {"127.0.0.1", "192.168.1.5"} <= set(environment["no_proxy"].split(","))
    command, environment = mlflow_server(place)
    assert sqlite_path(command[command.index("--backend-store-uri") + 1]) == place.folder / "mlflow.db"
    config = configparser.ConfigParser()
    config.read(environment["MLFLOW_AUTH_CONFIG_PATH"])
    assert sqlite_path(config["mlflow"]["database_uri"]) == place.folder / "mlflow_auth.db"


@pytest.mark.parametrize("made", [False, True])
def test_a_temporary_folder_that_cannot_be_used_is_refused(tmp_path, monkeypatch, made):
    folder = tmp_path / "gone"
    if made:
        folder.write_text("a file")
    monkeypatch.setenv("TMPDIR", str(folder))
    with pytest.raises(EnvironmentFault, match=f"TMPDIR = {folder}: this folder does not exist"):
        check_variables()


def test_certificates_that_are_not_there_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(EnvironmentFault, match="SSL_CERT_FILE"):
        check_variables()


def test_a_home_with_a_line_break_is_refused(tmp_path):
    with pytest.raises(EnvironmentFault, match="line break"):
        prepare_environment(tmp_path / "two\nlines")


@pytest.mark.parametrize(
    "told", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONWARNINGS": "error"}]
)
def test_the_interpreter_reads_utf8_and_takes_no_warning_for_an_error(told):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **told}
    answer = subprocess.run([sys.executable, "-c", SETTLE, "a b"], env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    _, encoding, options, arguments = json.loads(answer.stdout)
    assert (encoding.replace("-", ""), options, arguments) == ("utf8", [], ["a b"])


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://user:word@host:5000", "open http://host:5000"),
        ("databricks", "open databricks"),
        ("postgresql://user:word@host/name", "--backend-store-uri postgresql://host/name --host"),
    ],
)
def test_the_command_that_shows_the_runs_fits_the_address(tmp_path, uri, expected):
    settings = read_settings(small_settings(tmp_path), [f'place.mlflow="{uri}"'])
    assert expected in mlflow_command(settings)
    assert settings.tracking_named == "place.mlflow"


def test_a_relative_database_is_shown_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = read_settings(small_settings(tmp_path), ['place.mlflow="sqlite:///runs.db"'])
    command = shlex.split(mlflow_command(settings))
    assert sqlite_path(command[command.index("--backend-store-uri") + 1]) == Path(tmp_path / "runs.db")


def test_a_temporary_server_has_no_pages_and_is_not_asked_for_workers(monkeypatch):
    for name in ("PREFECT_API_URL", TEMPORARY_SERVER):
        monkeypatch.setenv(name, "http://127.0.0.1:9/api")
    monkeypatch.setattr("prefect.client.orchestration.get_client", None)
    assert prefect_page("a-run") is None
    assert not on_pool()
    monkeypatch.delenv(TEMPORARY_SERVER)
    assert prefect_page("a-run") == "http://127.0.0.1:9/runs/flow-run/a-run"
    with pytest.raises(TypeError):
        on_pool()
