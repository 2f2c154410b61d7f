"""Each download, upload, server and last delivery that takes long says what is waited for."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.running.guard import start_temporary_server
from tasks.core.errors import CrashError
from tasks.data.hub import text_files
from tasks.models.resolving import resolve_model
from tasks.models.shape import config_folder
from tasks.store.remote.objects import Remote
from tasks.tracking.delivery import Delivery

SECONDS = 0.4


def slow(*_: object, **__: object) -> None:
    time.sleep(SECONDS)
    raise KeyError("nothing came")


BOUNDED = "tasks.store.remote.objects.Remote._bounded"


def remote() -> Remote:
    return Remote("s3://bucket/place", attempts=1)


# What is said, what is slow, and who waits for it.
WAITS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "the download of some/model from the model hub": (
        "huggingface_hub.snapshot_download",
        lambda _: resolve_model("some/model"),
    ),
    "the download of config.json of some/model from the model hub": (
        "huggingface_hub.hf_hub_download",
        lambda _: config_folder("some/model", None),
    ),
    "the download of the data set some/text": (
        "datasets.load_dataset",
        lambda folder: text_files("some/text", folder),
    ),
    "the temporary Prefect server to start": (
        "flows.running.guard._serve",
        lambda _: start_temporary_server(),
    ),
    "the download of a/b from the store s3://bucket/place": (
        BOUNDED,
        lambda folder: remote().download("a/b", folder / "b", 1),
    ),
    "the upload of a/b to the store s3://bucket/place": (
        BOUNDED,
        lambda _: remote().upload(Path(__file__), "a/b"),
    ),
    "the store s3://bucket/place to answer (reading from it)": (BOUNDED, lambda _: remote().read("a/b")),
    "the store s3://bucket/place to answer (writing to it)": (BOUNDED, lambda _: remote().write("a/b", b"1")),
    "the store s3://bucket/place to answer (listing it)": (BOUNDED, lambda _: remote().entries("a")),
    "the store s3://bucket/place to answer (deleting from it)": (BOUNDED, lambda _: remote().delete(["a/b"])),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten seconds otherwise."""
    monkeypatch.setattr("tasks.store.patience.FIRST_SECONDS", 0.1)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.mark.parametrize("what", WAITS)
def test_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, what: str) -> None:
    called, wait = WAITS[what]
    monkeypatch.setattr(called, slow)
    with pytest.raises((CrashError, KeyError)):
        wait(tmp_path)
    assert [message.partition(", ")[0] for message in caplog.messages] == [f"waiting for {what}"]


def test_the_last_delivery_is_said(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("tasks.tracking.delivery.POLL_SECONDS", 0.05)
    journal: Any = SimpleNamespace(everything_delivered=lambda: True)
    sender: Any = SimpleNamespace(uri="http://me:word@host:5000")
    delivery = Delivery(journal, sender)
    delivery._thread = threading.Thread(target=lambda: time.sleep(SECONDS))
    delivery._thread.start()
    assert delivery.finish(5, lambda: False)
    assert [message.partition(", ")[0] for message in caplog.messages] == [
        "waiting for MLflow at http://host:5000 to take what is left of this run"
    ]
