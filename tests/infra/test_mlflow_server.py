"""The MLflow image's start script, with a real server on loopback."""

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from images.mlflow_server import NEEDED, write_auth_file
from tasks.store.loopback import free_port
from tests.places import ROOT

SCRIPT = ROOT / "images" / "mlflow_server.py"
USER = ("someone", "a-long-password")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server with a percent sign in its database's address, as an escaped password has."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": str(folder),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/two%20words.db",
        "MLFLOW_AUTH_ADMIN_USERNAME": USER[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": USER[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for-this-test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    options = ["--host=127.0.0.1", f"--port={port}", "--workers=1", "--allowed-hosts=mlflow:5000,127.0.0.1:*"]
    command = [sys.executable, SCRIPT, *options, f"--artifacts-destination={folder}/artifacts"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        until_healthy(url, process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def until_healthy(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    pytest.fail(f"the server did not come up:\n{log.read_text()}")


def search(url: str, auth: tuple[str, str] | None, host: str | None = None) -> int:
    query = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
    return httpx.get(query, auth=auth, headers={"Host": host} if host else None).status_code


def test_only_the_admin_gets_in_and_only_under_a_known_name(server: str) -> None:
    assert search(server, None) == 401
    assert search(server, (USER[0], "wrong-password")) == 401
    assert search(server, USER) == 200
    assert search(server, USER, host="mlflow:5000") == 200
    assert search(server, USER, host="attacker.example.org:5000") == 403


def test_the_file_with_the_databases_password_is_the_users_alone(tmp_path: Path) -> None:
    path = write_auth_file(tmp_path / "auth.ini", {"MLFLOW_BACKEND_STORE_URI": "postgresql+pg8000://m:p%40ss@h/d"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "p%%40ss" in path.read_text()


def test_what_is_not_set_is_named() -> None:
    environment = {"MLFLOW_AUTH_ADMIN_PASSWORD": "not-to-be-shown"}
    found = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert found.returncode == 2
    assert [name for name in NEEDED if name in found.stderr] == [name for name in NEEDED if name not in environment]
    assert "not-to-be-shown" not in found.stderr
