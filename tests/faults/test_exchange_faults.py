"""Seal, open and admit under kills and a full disk at every system call: ledger and folders agree afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.exchange import emulator_bundle
from tasks.exchange.keys import own_public_keys, trusted_keys
from tasks.exchange.ledger import ACCEPTED, Entry, opened
from tasks.exchange.leftovers import PARTIAL, collect_exchange
from tasks.exchange.names import is_weights
from tasks.exchange.opening import FILES, RESTORED
from tasks.exchange.plugging import PLUG_FILE, plugged_bundle
from tasks.exchange.receiving import copy_files, verify_manifest
from tests.exchange.parties import NOW, Party, tree_digest
from tests.faults.exchange_steps import STEPS, Exchange, copied, prepare
from tests.faults.traced import FULL, KILL, needs_strace, with_fault

nightly = pytest.mark.nightly
# A fork of a process with threads, in which none of them is needed.
pytestmark = [needs_strace, pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")]
# By these a step publishes: folders are renamed; SQLite ends a transaction by removing its journal.
PUBLISHING = ("rename", "unlink")
OTHERS = ("fsync", "fdatasync", "pwrite64", "write", "sendfile", "mkdir", "chmod", "link", "unlinkat")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Exchange]]:
    """The exchange as it is before each step."""
    with pytest.MonkeyPatch.context() as patch:
        # Another process, which takes a second; it writes nothing.
        patch.setattr(emulator_bundle, "probe_tokenizer", lambda _: None)
        yield {step: prepare(tmp_path_factory.mktemp("before"), step) for step in STEPS}


def entries(party: Party) -> list[Entry]:
    with opened(party.place.ledger) as ledger:
        return ledger.entries()


def require_agreement(exchange: Exchange, step: str) -> None:
    """Ledger and folders of a party say the same, whatever has happened."""
    party = exchange.party_of(step)
    for entry in entries(party):
        if entry.direction == "in":
            assert {path.name for path in (party.place.received / entry.manifest).iterdir()} == {FILES, RESTORED}
        elif entry.kind == "emulator":
            assert (party.place.sealed / entry.id).is_dir()


def require_complete(exchange: Exchange, step: str) -> bool:
    """Return whether what a step hands over is there; it is complete then, and in the ledger."""
    out, party = exchange.out_of(step), exchange.party_of(step)
    if out is None or not out.exists():
        return False
    known = {entry.id: entry for entry in entries(party)}
    if step == "admit tuned blocks":
        assert known[plugged_bundle(out)].state in ("open", ACCEPTED)
        assert (party.place.plugged / plugged_bundle(out) / PLUG_FILE).is_file()
        return known[plugged_bundle(out)].state == ACCEPTED
    copy = exchange.root / "copy"
    copy.mkdir()
    keys = [*trusted_keys(party.place.trusted), *own_public_keys(party.place.keys)]
    verified = verify_manifest(out, copy, None, keys, NOW)
    copy_files(out, copy, verified.manifest, dict.fromkeys(filter(is_weights, verified.manifest.files)))
    assert known[verified.manifest.id].manifest == verified.digest
    return True


def require_clean(exchange: Exchange, step: str) -> None:
    """Nothing that a killed command has left stays: the next one removes it beside its folders, and `gc` the rest."""
    party = exchange.party_of(step)
    collect_exchange(party.place, days=0)
    require_agreement(exchange, step)
    assert not list(exchange.root.rglob(f"{PARTIAL}*"))
    named = {entry.manifest for entry in entries(party)} | {entry.id for entry in entries(party)}
    for folder in (party.place.received, party.place.sealed):
        assert {path.name for path in folder.glob("*")} <= named
    assert collect_exchange(party.place, days=0) == []


def sweep(before: Exchange, step: str, call: str, fault: str, scratch: Path) -> int:
    """Take a step with the fault at its first such call, at its second, ...; return how often it struck."""
    for number in range(1, 400):
        exchange = copied(before, scratch / "exchange")
        home = tree_digest(exchange.party_of(step).home)
        outcome = with_fault(lambda exchange=exchange: exchange.run(step), call, fault, number, scratch)
        if not outcome.has_fired:
            assert outcome.code == 0, outcome.said
            assert number == 1 or require_complete(exchange, step) == (exchange.out_of(step) is not None)
            return number - 1
        assert outcome.code == -9 if fault == KILL else outcome.code in (0, 4), outcome.said
        if fault == FULL and outcome.code == 4 and step.startswith("open"):
            collect_exchange(exchange.party_of(step).place, days=0)
            assert tree_digest(exchange.party_of(step).home) == home
        require_agreement(exchange, step)
        if not require_complete(exchange, step):
            # The same command once more.
            exchange.run(step)
            require_agreement(exchange, step)
            assert require_complete(exchange, step) == (exchange.out_of(step) is not None)
        require_clean(exchange, step)
    raise AssertionError(f"{step}: more calls of {call} than were expected")


@pytest.mark.parametrize("step", STEPS)
def test_killed_where_it_publishes(before: dict[str, Exchange], step: str, tmp_path: Path) -> None:
    assert all(sweep(before[step], step, call, KILL, tmp_path) for call in PUBLISHING)


@pytest.mark.slow_faults
@pytest.mark.parametrize("call", OTHERS)
@pytest.mark.parametrize("step", STEPS)
def test_killed_anywhere(before: dict[str, Exchange], step: str, call: str, tmp_path: Path) -> None:
    struck = sweep(before[step], step, call, KILL, tmp_path)
    assert struck or call in ("fsync", "fdatasync", "sendfile", "chmod", "link", "unlinkat")


@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_is_full_when_it_publishes(before: dict[str, Exchange], step: str, tmp_path: Path) -> None:
    assert sweep(before[step], step, "rename", FULL, tmp_path)


@pytest.mark.slow_faults
@pytest.mark.parametrize("call", OTHERS)
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fills_anywhere(before: dict[str, Exchange], step: str, call: str, tmp_path: Path) -> None:
    struck = sweep(before[step], step, call, FULL, tmp_path)
    assert struck or call in ("fsync", "fdatasync", "sendfile", "chmod", "link", "unlinkat")
