"""Servers are asked before anything is computed; no message shows a password."""

import base64
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.core.errors import EnvironmentFault
from tasks.tracking.mlflow_sender import check_server
from tasks.tracking.servers import redact_url, refusal, unreachable

SECRET = "pass-word"


class Guarded(BaseHTTPRequestHandler):
    """Healthy for everybody; the API for one user alone, or for nobody, or silent."""

    def do_GET(self) -> None:
        status = 200 if self.path == "/health" else self.server.answer(self.headers.get("Authorization", ""))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as found:
        right = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
        found.answer = lambda given: 200 if given == right else 401
        found.daemon_threads = True
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def address(server, user: str = "") -> str:
    return f"http://{user}127.0.0.1:{server.server_port}"


def test_credentials_from_the_environment_and_from_the_address(server, monkeypatch):
    check_server(address(server, f"user:{SECRET}@"))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    check_server(address(server))
    # What the address says is what MLflow's client sends.
    assert refusal(address(server, f"other:{SECRET}@")) == 401


@pytest.mark.parametrize("given", [("", ""), ("user", "wrong-word"), ("user", "")])
def test_wrong_credentials_are_one_clear_error(server, monkeypatch, given):
    for name, value in zip(("USERNAME", "PASSWORD"), given, strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    with pytest.raises(EnvironmentFault, match=r"refuses us \(401\); set MLFLOW_TRACKING_USERNAME and MLFLOW") as info:
        check_server(address(server))
    assert info.value.exit_code == 4
    assert "\n" not in str(info.value)
    assert "wrong-word" not in str(info.value)


def test_a_token_that_only_mlflow_knows_of_is_taken(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
    server.answer = lambda given: 200 if given == "Bearer token" else 401
    check_server(address(server))


def test_a_server_that_forbids_says_what_may_be_wrong(server):
    server.answer = lambda given: 403
    with pytest.raises(EnvironmentFault, match=r"refuses us \(403\).*--allowed-hosts"):
        check_server(address(server))


def test_a_slow_server_has_not_refused(server, monkeypatch):
    monkeypatch.setattr("tasks.tracking.servers.ANSWER_SECONDS", 0.2)
    server.answer = lambda given: time.sleep(1) or 401
    check_server(address(server))


def test_no_message_shows_a_password(server):
    with pytest.raises(EnvironmentFault, match="refuses us") as refused:
        check_server(address(server, f"user:{SECRET}x@"))
    with pytest.raises(EnvironmentFault, match="does not answer") as away:
        check_server(f"http://user:{SECRET}@127.0.0.1:9")
    for error in (refused.value, away.value):
        assert SECRET not in str(error)
        assert "http://127.0.0.1" in str(error)
        assert error.__cause__ is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://user:a@b/c@host:1/path", "http://host:1/path"),
        ("postgresql+pg8000://user:word@host/base", "postgresql+pg8000://host/base"),
        ("https://host/path?at=a@b", "https://host/path?at=a@b"),
        ("sqlite:////folder/a@b/mlflow.db", "sqlite:////folder/a@b/mlflow.db"),
        ("http://host", "http://host"),
    ],
)
def test_addresses_are_shown_without_credentials(given, expected):
    assert redact_url(given) == expected


def test_an_address_that_is_none_is_not_reached():
    assert unreachable("http://127.0.0.1:9/health") == "ConnectError"
    assert unreachable("http://127.0.0.1:port/health") == "InvalidURL"
