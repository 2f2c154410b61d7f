"""Seal, open and admit under kills and a full disk at every system call: ledger and folders agree afterwards."""

import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import CrashError, InputError
from tasks.exchange import emulator_bundle
from tasks.exchange.keys import own_public_keys, trusted_keys
from tasks.exchange.ledger import opened
from tasks.exchange.ledger_entry import ACCEPTED, Entry
from tasks.exchange.leftovers import PARTIAL, collect_exchange
from tasks.exchange.names import is_weights
from tasks.exchange.opening import FILES, RESTORED
from tasks.exchange.plugging import PLUG_FILE, plugged_bundle
from tasks.exchange.receiving import copy_files, private_folder, verify_manifest
from tests.exchange.parties import NOW, Party, receive_emulator, tree_digest
from tests.faults.exchange_steps import STEPS, Exchange, copied, prepare
from tests.faults.traced import FULL, KILL, needs_strace, with_fault
from tests.flows.commands import crash

nightly = pytest.mark.nightly
# A fork of a process with threads, in which none of them is needed.
pytestmark = [needs_strace, pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")]
# By these a step publishes: folders are renamed; SQLite ends a transaction by removing its journal.
PUBLISHING = ("rename", "unlink")
OTHERS: list[Any] = ["fsync", "fdatasync", "pwrite64", "sendfile", "mkdir", "chmod", "link", "unlinkat"]
# Hundreds of them write a plugged model.
OTHERS += [pytest.param("write", marks=nightly)]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Exchange]]:
    """The exchange as it is before each step."""
    with pytest.MonkeyPatch.context() as patch:
        # Another process, which takes a second; it writes nothing.
        patch.setattr(emulator_bundle, "probe_tokenizer", lambda *_: 0)
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
    if step.startswith("admit"):
        # All of a merge, or none.
        (state,) = {entry.state for entry in known.values() if entry.direction == "in"}
        assert state in ("open", ACCEPTED)
        assert (party.place.plugged / plugged_bundle(out) / PLUG_FILE).is_file()
        return state == ACCEPTED
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


def test_leftovers_of_the_living_stay(before: dict[str, Exchange], tmp_path: Path) -> None:
    exchange = copied(before["open an emulator"], tmp_path / "exchange")
    place = exchange.clinic.place
    with private_folder(place.received) as mine:
        left = place.received / mine.name.replace(str(os.getpid()), "999999999")
        left.mkdir()
        (left / "file").write_text("x")
        assert [each.what for each in collect_exchange(place, days=30, dry_run=True)] == [
            f"exchange received/{left.name}"[:60]
        ]
        assert left.is_dir()
        collect_exchange(place, days=30)
        assert (mine.is_dir(), left.exists()) == (True, False)
        left.mkdir()
        # The next command beside it does the same.
        with private_folder(place.received):
            assert (mine.is_dir(), left.exists()) == (True, False)


def test_gc_removes_what_a_killed_reception_has_left(before: dict[str, Exchange], tmp_path: Path) -> None:
    exchange = copied(before["open an emulator"], tmp_path / "exchange")
    # The rename before the entry is committed.
    outcome = with_fault(lambda: exchange.run("open an emulator"), "unlink", KILL, 1, tmp_path)
    assert outcome.has_fired
    (left,) = exchange.clinic.place.received.iterdir()
    assert entries(exchange.clinic) == []
    done = crash("gc", "--home", str(exchange.clinic.home))
    assert done.returncode == 0, done.stderr
    assert f"exchange received/{left.name}"[:60] in done.stdout
    assert not left.exists()
    receive_emulator(exchange.clinic, exchange.root / "emulator")
    assert "removed 0 item(s)" in crash("gc", "--home", str(exchange.clinic.home)).stdout


def at_once(*works: Callable[[], object]) -> list[str]:
    """Do things in processes that begin at the same moment; return "done", or the error's text, of each."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(len(works)), [context.SimpleQueue() for _ in works]

    def run(work: Callable[[], object], answer: Any) -> None:
        try:
            barrier.wait(60)
            work()
            answer.put("done")
        except CrashError as error:
            answer.put(str(error))
        except BaseException as error:
            answer.put(repr(error))
            raise

    given = zip(works, answers, strict=True)
    processes = [context.Process(target=run, args=each, daemon=True) for each in given]
    for process in processes:
        process.start()
    try:
        return [answer.get() for answer in answers]
    finally:
        for process in processes:
            process.join(60)
            process.kill()


def test_of_two_admissions_at_once_exactly_one_is_accepted(before: dict[str, Exchange], tmp_path: Path) -> None:
    for number in range(5):
        exchange = copied(before["admit tuned blocks"], tmp_path / str(number))
        models = [exchange.root / "out" / name for name in ("first", "second")]
        said = at_once(*(partial(exchange.admit, model) for model in models))
        assert sorted(word == "done" for word in said) == [False, True], said
        assert re.search("already used|accepted", next(word for word in said if word != "done"))
        assert [model.exists() for model in models] == [word == "done" for word in said]
        (entry,) = [each for each in entries(exchange.acme) if each.direction == "in"]
        assert entry.state == ACCEPTED
        assert not list(exchange.root.rglob(f"{PARTIAL}*"))


def test_two_receptions_of_one_bundle_at_once_end_in_one_copy(before: dict[str, Exchange], tmp_path: Path) -> None:
    for number in range(5):
        exchange = copied(before["open an emulator"], tmp_path / str(number))
        assert at_once(*[partial(exchange.run, "open an emulator")] * 3) == ["done"] * 3
        require_agreement(exchange, "open an emulator")
        assert len(entries(exchange.clinic)) == len(list(exchange.clinic.place.received.iterdir())) == 1
        assert not exchange.clinic.place.quarantine.exists()


@pytest.mark.parametrize("name", ["opened/config.json", "bundle/weights.safetensors", "opened/more.json"])
def test_b29_a_poisoned_copy_of_a_received_bundle_is_set_aside_and_made_again(
    before: dict[str, Exchange], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = copied(before["open an emulator"], tmp_path / "exchange")
    opened_first = receive_emulator(exchange.clinic, exchange.root / "emulator")
    good = tree_digest(opened_first.folder)
    poisoned = opened_first.folder.parent / name
    content = poisoned.read_bytes() if poisoned.exists() else b""
    poisoned.write_bytes(content[:-9] + b"attacker." if content else b"{}")
    again = receive_emulator(exchange.clinic, exchange.root / "emulator")
    assert tree_digest(again.folder) == good
    assert "was changed since it was received" in caplog.text
    (kept,) = exchange.clinic.place.quarantine.iterdir()
    assert (kept / name).read_bytes() != content
    require_agreement(exchange, "open an emulator")
    collect_exchange(exchange.clinic.place, days=30)
    assert kept.is_dir()
    collect_exchange(exchange.clinic.place, days=-1)
    assert not kept.exists()


def test_a_plugged_model_that_a_killed_command_has_handed_over_is_not_written_over(
    before: dict[str, Exchange], tmp_path: Path
) -> None:
    exchange = copied(before["admit tuned blocks"], tmp_path / "exchange")
    out = exchange.out_of("admit tuned blocks")
    assert out is not None
    # The last transaction ends with the third such call: the model is there, its entry is not.
    for number in range(1, 9):
        exchange = copied(before["admit tuned blocks"], tmp_path / "exchange")
        with_fault(lambda exchange=exchange: exchange.run("admit tuned blocks"), "unlink", KILL, number, tmp_path)
        if out.exists():
            break
    assert [entry.state for entry in entries(exchange.acme) if entry.direction == "in"] == ["open"]
    (out / "config.json").write_text("{}")
    with pytest.raises(InputError, match="nothing is overwritten"):
        exchange.run("admit tuned blocks")
    assert (out / "config.json").read_text() == "{}"
