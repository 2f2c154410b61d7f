"""Bundles of every format version that was released: each is still read, and one of a newer version is refused."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from flows.exchange.bundles import verify
from tasks.core.errors import RefusedError
from tasks.exchange import emulator_bundle, tuned_bundle
from tasks.exchange.keys import read_public, trust
from tasks.exchange.ledger import opened
from tasks.exchange.ledger_entry import Entry, entry_of
from tasks.exchange.manifest import VERSION, EmulatorManifest, TunedBlocksManifest, read_manifest
from tasks.exchange.names import MANIFEST_FILE, SIGNATURE_FILE
from tasks.exchange.opening import Expectation, OpenedBundle, open_emulator, open_tuned_blocks
from tasks.exchange.place import ExchangePlace
from tasks.exchange.receiving import copy_files, verify_manifest
from tasks.models.emulators.emulator import load_emulator
from tasks.models.tuned_blocks import read_returned
from tasks.store.digests import plain_digest
from tests.exchange.parties import copied
from tests.exchange.test_independent_reader import read_independently
from tests.exchange.write_corpus import METHODS, PLAN, key_of

CORPUS = Path(__file__).parent / "corpus"
BUNDLES = sorted(path.parent.relative_to(CORPUS) for path in CORPUS.glob(f"*/*/{MANIFEST_FILE}"))
LATER = timedelta(days=1)


def place_of(home: Path, version: Path, own: str, other: str) -> ExchangePlace:
    """Return the place of a party of the corpus that trusts the other one."""
    place = ExchangePlace.of_home(home)
    place.keys.mkdir(parents=True)
    # Only its public half is needed to receive.
    (place.keys / f"{own}.key").touch()
    (place.keys / f"{own}.pub").write_bytes((version / f"{own}.pub").read_bytes())
    trust(version / f"{other}.pub", place.trusted)
    return place


def emulator_of(version: Path) -> EmulatorManifest:
    """Return the manifest of the emulator of a version."""
    found = read_manifest((version / "emulator" / MANIFEST_FILE).read_bytes())
    assert isinstance(found, EmulatorManifest)
    return found


def test_every_version_has_an_emulator_and_tuned_blocks() -> None:
    expected = {f"v{number}/{name}" for number in range(1, VERSION + 1) for name in ("emulator", "tuned_blocks")}
    assert expected <= {str(bundle) for bundle in BUNDLES}


@pytest.mark.parametrize("bundle", BUNDLES, ids=str)
def test_each_is_verified_and_says_its_version(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = CORPUS / bundle.parent
    keys = [read_public(file) for file in sorted(version.glob("*.pub"))]
    now = emulator_of(version).created + LATER
    found = verify_manifest(CORPUS / bundle, tmp_path, None, keys, now).manifest
    assert f"v{found.version}" == bundle.parent.name
    copy_files(CORPUS / bundle, tmp_path, found, {"weights.safetensors": None})
    place = place_of(tmp_path / "home", version, found.recipient.name, found.sender.name)

    class Clock:
        """The bundles do not live as long as this test."""

        @staticmethod
        def now(_: object) -> object:
            return now

    monkeypatch.setattr("flows.exchange.bundles.datetime", Clock)
    assert f"format version {found.version} (this program reads up to {VERSION})" in verify(CORPUS / bundle, place)


@pytest.mark.parametrize("bundle", BUNDLES, ids=str)
def test_each_is_read_by_a_program_that_knows_the_format_page_alone(bundle: Path, tmp_path: Path) -> None:
    sender = json.loads((CORPUS / bundle / MANIFEST_FILE).read_text())["sender"]["name"]
    found = read_independently(CORPUS / bundle, CORPUS / bundle.parent / f"{sender}.pub", tmp_path)
    assert found["tensors"] > 0


@pytest.mark.parametrize("version", sorted(CORPUS.glob("v*")), ids=lambda path: path.name)
def test_an_emulator_of_each_version_computes(version: Path, tmp_path: Path) -> None:
    place, asked = place_of(tmp_path / "home", version, "clinic", "acme"), emulator_of(version)

    def restore(manifest: EmulatorManifest, copy: Path, out: Path) -> None:
        emulator_bundle.restore_folder(copy, manifest, out)

    found = open_emulator(version / "emulator", place, asked.created + LATER, restore)
    with torch.no_grad():
        assert load_emulator(found.folder)(torch.arange(12).reshape(1, 12)).logits.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("version", sorted(CORPUS.glob("v*")), ids=lambda path: path.name)
def test_tuned_blocks_of_each_version_are_taken(version: Path, name: str, tmp_path: Path) -> None:
    assert read_returned(receive_tuned(version, name, tmp_path).folder).variant == METHODS[name]


def receive_tuned(version: Path, name: str, scratch: Path) -> OpenedBundle:
    """Open tuned blocks of a version at the model owner's."""
    place, asked = place_of(scratch / "home", version, "acme", "clinic"), emulator_of(version)
    with opened(place.ledger) as ledger:
        ledger.add(entry_of(asked, plain_digest(version / "emulator" / MANIFEST_FILE), "out", asked.created))

    def expect(manifest: TunedBlocksManifest, _: Entry) -> Expectation:
        method = tuned_bundle.method_of(manifest, asked.returns)
        # Whole tensors are those of the template; names and shapes of low-rank factors need the full model.
        tensors = asked.returns.template if method.method == "blocks" else None
        return Expectation(
            {"weights.safetensors": tensors}, lambda copy, out: tuned_bundle.restore_folder(copy, PLAN, method, out)
        )

    (found,) = open_tuned_blocks([version / f"tuned_{name}"], place, asked.created + LATER, expect)
    return found


@pytest.mark.parametrize("name", ["emulator", "tuned_blocks"])
def test_a_newer_version_is_refused_by_name(name: str, tmp_path: Path) -> None:
    bundle = copied(CORPUS / f"v{VERSION}" / name, tmp_path / "newer")
    values = json.loads((bundle / MANIFEST_FILE).read_text()) | {"version": VERSION + 1, "more": "of a later program"}
    content = json.dumps(values).encode()
    (bundle / MANIFEST_FILE).write_bytes(content)
    key = key_of(values["sender"]["name"])
    (bundle / SIGNATURE_FILE).write_bytes(key.sign(content))
    (tmp_path / "copy").mkdir()
    reason = rf"format version {VERSION + 1}; this program reads up to {VERSION}: update it"
    with pytest.raises(RefusedError, match=reason):
        verify_manifest(bundle, tmp_path / "copy", None, [key.public], key.public.created + LATER)


def test_the_bundles_are_small() -> None:
    sizes = {bundle: sum(file.stat().st_size for file in (CORPUS / bundle).iterdir()) for bundle in BUNDLES}
    assert max(sizes.values()) < 300_000
