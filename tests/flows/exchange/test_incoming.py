"""Bundles in a watched folder start an admission once each, when they are whole."""

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Failed, Paused, Scheduled

from flows import incoming
from tasks.core.errors import InputError
from tasks.exchange.ledger_entry import DECLINED
from tasks.exchange.manifest import TunedBlocksManifest
from tasks.exchange.opening import settle
from tests.exchange.parties import (
    Party,
    make_emulator,
    make_parties,
    make_tuning,
    receive_emulator,
    receive_tuned,
    seal_emulator,
    seal_tuned,
)


class Story:
    """An owner in whose folder the answer of a clinic arrives."""

    def __init__(self, root: Path) -> None:
        # The flow looks at the clock.
        now = datetime.now(UTC)
        self.owner, self.clinic = make_parties(root, "acme", "clinic", now=now)
        self.asked = seal_emulator(self.owner, self.clinic, make_emulator(root / "made"), root / "emulator", now)
        opened = receive_emulator(self.clinic, root / "emulator", now)
        self.folder = root / "in"
        self.folder.mkdir()
        seal_tuned(self.clinic, self.owner, opened, make_tuning(root / "tuning"), self.folder / "returned", now)

    @property
    def home(self) -> Path:
        """Home of the owner."""
        party: Party = self.owner
        return party.home


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def names(story: Story) -> list[str]:
    return [each.folder.name for each in incoming.arrived(story.folder, story.home)]


def test_a_bundle_is_found_once_it_is_whole(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    whole, slow = story.folder / "returned", story.folder / "slow"
    slow.mkdir()
    (story.folder / "notes.txt").write_text("no bundle")
    with caplog.at_level(logging.WARNING):
        for name in ("manifest.sig", "manifest.json", "weights.safetensors"):
            assert names(story) == ["returned"]
            shutil.copy(whole / name, slow / name)
        content = (whole / "weights.safetensors").read_bytes()
        (slow / "weights.safetensors").write_bytes(content[:-1])
        assert names(story) == ["returned"]
        assert "slow: weights.safetensors: " in caplog.messages[-1]
        (slow / "weights.safetensors").write_bytes(content)
    assert names(story) == ["returned", "slow"]


def test_what_was_decided_is_left_alone(story: Story) -> None:
    opened = receive_tuned(story.owner, story.folder / "returned", story.asked, datetime.now(UTC))
    assert names(story) == ["returned"]
    assert isinstance(opened.manifest, TunedBlocksManifest)
    settle(story.owner.place, [opened.manifest], DECLINED)
    assert names(story) == []


def test_an_emulator_is_not_plugged_in(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(story.folder / "returned")
    shutil.copytree(story.folder.parent / "emulator", story.folder / "emulator")
    with caplog.at_level(logging.WARNING):
        assert names(story) == []
    assert "left alone: emulator: " in caplog.text


def test_a_bundle_of_a_stranger_starts_nothing(story: Story, caplog: pytest.LogCaptureFixture) -> None:
    manifest = story.folder / "returned" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sequence": 1', '"sequence": 2'))
    with caplog.at_level(logging.WARNING):
        assert names(story) == []
    assert "no trusted key has signed" in caplog.text


def test_a_folder_that_cannot_be_read_keeps_no_other_from_starting(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(story.folder / "returned", story.folder / "before")
    listed = incoming.list_bundle

    def list_bundle(folder: Path) -> dict[str, int]:
        if folder.name == "before":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(incoming, "list_bundle", list_bundle)
    assert names(story) == ["returned"]


@pytest.mark.parametrize(("state", "waits"), [(Paused(), True), (Scheduled(), True), (Failed(), False)])
def test_each_starts_one_run_however_often_it_is_seen(story: Story, tmp_path: Path, state: Any, waits: bool) -> None:
    calls: list[tuple[Any, ...]] = []

    def run(*given: Any, **named: Any) -> Any:
        calls.append((given, named))
        return SimpleNamespace(id="1", state=state)

    for _ in range(2):
        (bundle,) = incoming.arrived(story.folder, story.home)
        assert incoming.start(bundle, tmp_path / "models", None, run) == waits
    assert calls[0] == calls[1]
    (name,), named = calls[0]
    assert name == "plug-in/run"
    assert named["parameters"]["bundles"] == [str(story.folder / "returned")]
    assert Path(named["parameters"]["out"]).parent == tmp_path / "models"
    assert named["idempotency_key"].startswith("plug-in-")
    assert named["timeout"] == 0


def test_a_folder_that_is_missing_is_named(story: Story) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder on this machine"):
        next(incoming.arrived(story.folder / "nowhere", story.home))
