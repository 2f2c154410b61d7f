"""MLflow is imported in a thread, which must not change the environment: C code of other threads reads it."""

import os

import pytest

from tasks.tracking import mlflow_sender


def test_variables_are_set_before_the_thread_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in mlflow_sender.QUIET:
        monkeypatch.setenv(name, "")  # so that it is as before at the end
        monkeypatch.delenv(name)
    seen = {}

    class Thread:
        """Starts nothing."""

        def __init__(self, target, **_) -> None:
            seen.update(os.environ)

        def start(self) -> None:
            pass

    monkeypatch.setattr("tasks.tracking.mlflow_sender.threading.Thread", Thread)
    mlflow_sender.warm_up()
    assert {name: seen.get(name) for name in mlflow_sender.QUIET} == mlflow_sender.QUIET


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    mlflow_sender.set_quiet()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"
