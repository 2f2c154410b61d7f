"""The ledger: transactions, sequences, answers, the clock, and files that are not ledgers."""

import random
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentFault, RefusedError
from tasks.exchange import ledger as ledger_module
from tasks.exchange.ledger import opened
from tasks.exchange.ledger_entry import Entry, read_row, row_of, with_digest
from tests.exchange.parties import NOW

ENTRY = Entry(
    id="a" * 32,
    direction="out",
    kind="emulator",
    party="f" * 64,
    name="clinic",
    sequence=1,
    nonce="1" * 32,
    answers=None,
    manifest="d" * 64,
    base="b" * 64,
    blocks=(0, 2, 7),
    share=0.5,
    expires=NOW + timedelta(days=90),
    at=NOW,
    state="sealed",
)


def test_entries_come_back_as_they_were_added(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.add(ENTRY)
    with opened(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.entries() == [ENTRY]
        assert ledger.find(ENTRY.id) == ENTRY
        assert ledger.find("0" * 32) is None


def test_an_error_undoes_everything_in_its_context(tmp_path: Path) -> None:
    def interrupted() -> None:
        with opened(tmp_path / "ledger.sqlite") as ledger:
            ledger.add(ENTRY)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with opened(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.entries() == []


def test_sequences_count_by_party_and_kind(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.next_sequence("emulator", ENTRY.party) == 1
        ledger.add(ENTRY)
        assert ledger.next_sequence("emulator", ENTRY.party) == 2
        assert ledger.next_sequence("emulator", "e" * 64) == 1
        assert ledger.next_sequence("tuned_blocks", ENTRY.party) == 1


def test_disclosed_blocks_add_up_over_recipients_of_a_group_and_not_over_models(tmp_path: Path) -> None:
    other = replace(ENTRY, id="c" * 32, party="e" * 64, blocks=(0, 3, 7))
    with opened(tmp_path / "ledger.sqlite") as ledger:
        ledger.add(ENTRY)
        ledger.add(other)
        ledger.add(replace(ENTRY, id="9" * 32, sequence=2, base="0" * 64, blocks=(5,)))
        assert ledger.disclosed([ENTRY.base], {ENTRY.party: "-"}) == {0, 2, 7}
        assert ledger.disclosed([ENTRY.base], {"a" * 64: ENTRY.name}) == {0, 2, 3, 7}, "under an earlier key"
        assert ledger.disclosed([ENTRY.base], {"a" * 64: "other"}) == set()
        assert ledger.disclosed([ENTRY.base], {ENTRY.party: "-", other.party: "-"}) == {0, 2, 3, 7}


def test_the_same_sequence_twice_is_refused(tmp_path: Path) -> None:
    def twice() -> None:
        with opened(tmp_path / "l.sqlite") as ledger:
            ledger.add(ENTRY)
            ledger.add(replace(ENTRY, id="c" * 32))

    with pytest.raises(RefusedError, match="has this bundle already"):
        twice()


def test_a_clock_that_was_set_back_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path / "l.sqlite") as ledger:
        ledger.require_later(NOW)
        ledger.add(ENTRY)
        ledger.require_later(NOW - timedelta(minutes=5))
        with pytest.raises(RefusedError, match="earlier than the last entry"):
            ledger.require_later(NOW - timedelta(hours=1))


def test_a_damaged_ledger_is_never_used(tmp_path: Path) -> None:
    file = tmp_path / "l.sqlite"
    with opened(file) as ledger:
        ledger.add(ENTRY)
    content = file.read_bytes()
    for damaged in (b"not a database" * 100, content[:5000] + b"\xff" * 3000 + content[8000:], content[:6000]):
        file.write_bytes(damaged)
        with pytest.raises(EnvironmentFault, match="Restore it from a copy"), opened(file) as ledger:
            ledger.entries()
        assert file.read_bytes() == damaged


def test_bytes_that_changed_anywhere_are_refused_or_harmless(tmp_path: Path) -> None:
    """Whatever bytes are other ones: the ledger is refused with what to do, or whole; it is never made anew."""
    file, generator = tmp_path / "l.sqlite", random.Random(0)
    with opened(file) as ledger:
        for number in range(1, 20):
            ledger.add(replace(ENTRY, id=f"{number:032x}", sequence=number))
        known = ledger.entries()
    content = file.read_bytes()
    refused = []
    for _ in range(300):
        place = generator.randrange(len(content))
        damaged = content[:place] + generator.randbytes(3) + content[place + 3 :]
        file.write_bytes(damaged)
        try:
            with opened(file) as ledger:
                assert ledger.entries() == [ledger.find(entry.id) for entry in known] == known
                assert ledger.next_sequence(ENTRY.kind, ENTRY.party) == 20
        except EnvironmentFault as error:
            refused.append(str(error))
        assert file.read_bytes() == damaged
    assert len(refused) > 20
    advice = "Restore it from a copy|move it away|update it|cannot be used"
    assert [said for said in refused if "\n" in said or not re.search(advice, said)] == []


def test_another_schema_is_refused(tmp_path: Path) -> None:
    statements = ("DROP COLUMN share", "RENAME TO others", "ADD COLUMN more TEXT")
    for number, statement in enumerate(statements):
        file = tmp_path / f"{number}.sqlite"
        with opened(file) as ledger:
            ledger.add(ENTRY)
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(f"ALTER TABLE entries {statement}")
            connection.commit()
        before = file.read_bytes()
        with pytest.raises(EnvironmentFault, match="Restore it from a copy"), opened(file) as ledger:
            ledger.entries()
        assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("blocks", "[0, "),
        ("at", "yesterday"),
        ("state", "accepted"),
        ("nonce", "2" * 32),
        ("nonce", None),
        ("share", 0.25),
        ("sequence", 2),
        ("digest", "0" * 64),
    ],
)
def test_an_entry_that_was_changed_is_damage(tmp_path: Path, column: str, value: object) -> None:
    file = tmp_path / "l.sqlite"
    with opened(file) as ledger:
        ledger.add(ENTRY)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"UPDATE entries SET {column} = ?", (value,))
        connection.commit()
    with pytest.raises(EnvironmentFault, match="Restore it from a copy"), opened(file) as ledger:
        ledger.entries()


@pytest.mark.parametrize(("column", "value"), [("blocks", "[0, "), ("at", "yesterday"), ("expires", "")])
def test_an_entry_that_cannot_be_read_is_damage_whatever_its_digest(column: str, value: str) -> None:
    columns = row_of(ENTRY)[:-1]
    columns[list(Entry.__dataclass_fields__).index(column)] = value
    with pytest.raises(sqlite3.DatabaseError, match="cannot be read"):
        read_row(with_digest(columns))


def test_a_ledger_of_version_1_gets_digests(tmp_path: Path) -> None:
    file = tmp_path / "l.sqlite"
    with opened(file) as ledger:
        ledger.add(replace(ENTRY, direction="in", state="open"))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("ALTER TABLE entries DROP COLUMN digest")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    with opened(file) as ledger:
        ledger.close(ENTRY.id, "accepted")
    with opened(file) as ledger:
        assert ledger.entries() == [replace(ENTRY, direction="in", state="accepted")]
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_folder_in_the_place_of_the_ledger_or_a_file_around_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").mkdir()
    with pytest.raises(EnvironmentFault, match="cannot be used"), opened(tmp_path / "l.sqlite"):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentFault, match="cannot be made"), opened(tmp_path / "file" / "l.sqlite"):
        pass


def test_a_ledger_that_was_removed_is_not_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "l.sqlite"
    (tmp_path / "received" / "partial-x").mkdir(parents=True)
    with opened(file):
        pass
    file.unlink()
    (tmp_path / "received" / ("d" * 64)).mkdir()
    with pytest.raises(EnvironmentFault, match="damaged or was removed"), opened(file):
        pass
    file.write_bytes(b"")
    with pytest.raises(EnvironmentFault, match="damaged or was removed"), opened(file):
        pass


def test_a_bundle_is_accepted_or_declined_once(tmp_path: Path) -> None:
    with opened(tmp_path / "l.sqlite") as ledger:
        ledger.add(replace(ENTRY, direction="in", kind="tuned_blocks", state="open"))
        ledger.close(ENTRY.id, "declined")
        with pytest.raises(RefusedError, match="meanwhile"):
            ledger.close(ENTRY.id, "accepted")
        found = ledger.find(ENTRY.id)
        assert found is not None
        assert found.state == "declined"


def test_files_of_other_programs_and_newer_versions_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "l.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE x (y)")
    with pytest.raises(EnvironmentFault, match="not a ledger of this program"), opened(file):
        pass
    file.unlink()
    with opened(file):
        pass
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(EnvironmentFault, match="newer version"), opened(file):
        pass


def test_a_ledger_that_stays_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "l.sqlite"
    monkeypatch.setattr(ledger_module, "WAIT_SECONDS", 0.1)
    with opened(file), pytest.raises(EnvironmentFault, match="was in use"), opened(file):
        pass


def test_a_process_that_is_killed_within_a_transaction_leaves_no_entry(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from tests.exchange.test_ledger import ENTRY;"
        "from tasks.exchange.ledger import opened\n"
        "with opened(Path(sys.argv[1])) as ledger: ledger.add(ENTRY); os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / "l.sqlite"
    done = subprocess.run([sys.executable, "-c", program, str(file)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    with opened(file) as ledger:
        assert ledger.entries() == []
        ledger.add(ENTRY)
