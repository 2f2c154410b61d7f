"""The ledger of a party: every bundle that it sealed or received, in one SQLite file.

It holds what a later bundle is checked against: sequence numbers, nonces and the time of the last entry, and what each
recipient has been given. Entries are only added, or closed; a ledger that is damaged is never repaired by guess.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from tasks.core.errors import EnvironmentFault, RefusedError
from tasks.exchange.ledger_entry import ACCEPTED, OPEN, Entry, read_row, row_of, with_digest
from tasks.exchange.manifest import Answer, Manifest

# "CRSH", in SQLite's field for the program that a file belongs to.
APPLICATION = 0x43525348
VERSION = 2
WAIT_SECONDS = 30.0
# By so much, clocks of two machines may differ.
TOLERANCE = timedelta(minutes=10)

_SCHEMA = """
CREATE TABLE entries (
    id TEXT PRIMARY KEY,
    direction TEXT NOT NULL CHECK (direction IN ('out', 'in')),
    kind TEXT NOT NULL,
    party TEXT NOT NULL,
    name TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    nonce TEXT,
    answers TEXT,
    manifest TEXT NOT NULL,
    base TEXT NOT NULL,
    blocks TEXT NOT NULL,
    share REAL,
    expires TEXT NOT NULL,
    at TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sealed', 'open', 'accepted', 'declined')),
    digest TEXT NOT NULL,
    UNIQUE (direction, kind, party, sequence)
) STRICT;
CREATE UNIQUE INDEX one_answer ON entries (answers) WHERE answers IS NOT NULL AND state = 'accepted';
"""


class Ledger:
    """The ledger in a file, which is made when it is first opened. Use `opened`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, entry: Entry) -> None:
        """Add an entry, within the transaction of the context."""
        row = row_of(entry)
        self._connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * len(row))})", row)

    def close(self, bundle: str, state: str) -> None:
        """Accept or decline a received bundle, once. bundle: its id.

        Raises:
            RefusedError: when it was accepted or declined before.
        """
        entry = self.find(bundle)
        if entry is None or (entry.direction, entry.state) != ("in", OPEN):
            raise RefusedError(f"bundle {bundle} was accepted or declined meanwhile")
        closed = replace(entry, state=state)
        query = "UPDATE entries SET state = ?, digest = ? WHERE id = ?"
        self._connection.execute(query, (state, row_of(closed)[-1], bundle))

    def entries(self) -> list[Entry]:
        """Return all entries, in the order in which they were added."""
        return [read_row(row) for row in self._connection.execute("SELECT * FROM entries ORDER BY rowid")]

    def find(self, bundle: str) -> Entry | None:
        """Return the entry of a bundle. bundle: its id."""
        row = self._connection.execute("SELECT * FROM entries WHERE id = ?", (bundle,)).fetchone()
        return read_row(row) if row else None

    def next_sequence(self, kind: str, party: str) -> int:
        """Return the sequence number of the next bundle to a party."""
        return self._last("out", kind, party) + 1

    def disclosed(self, bases: Collection[str], parties: Mapping[str, str]) -> set[int]:
        """Return the blocks of a full model that any of these parties has been given, also under an earlier key.

        bases: digests of the weights of the model, and of those that count as the same one; parties: name by
        fingerprint.
        """
        return {
            block
            for entry in self.entries()
            if entry.direction == "out" and entry.base in bases
            if entry.party in parties or entry.name in parties.values()
            for block in entry.blocks
        }

    def require_new(self, manifest: Manifest, digest: str) -> None:
        """Check a received bundle against all earlier ones.

        The same bundle may come again as long as it was neither accepted nor declined, so that an interrupted admission
        can go on.

        Raises:
            RefusedError: when it was received before, or a later one was.
        """
        known, party = self.find(manifest.id), manifest.sender.fingerprint
        if known is not None and (known.direction, known.manifest, known.state) == ("in", digest, OPEN):
            return
        if known is not None:
            raise RefusedError(f"bundle {manifest.id} was received on {known.at:%Y-%m-%d} and is {known.state}")
        last = self._last("in", manifest.kind, party)
        if manifest.sequence <= last:
            raise RefusedError(
                f"sequence {manifest.sequence} was already used by {manifest.sender.name} (expected >= {last + 1}):"
                " an older bundle, sent again"
            )

    def require_open(self, answer: Answer, sender: str) -> Entry:
        """Return the emulator that a bundle of tuned blocks answers.

        Raises:
            RefusedError: when none was sealed for this sender with this nonce and manifest, or it was answered.
        """
        asked = self.find(answer.id)
        if (
            asked is None
            or asked.direction != "out"
            or asked.nonce != answer.nonce
            or asked.manifest != answer.manifest
        ):
            raise RefusedError("it answers an emulator that was not sealed here (id, nonce or manifest differ)")
        if asked.party != sender:
            raise RefusedError(f"it answers an emulator that was sealed for {asked.name}, and another party signed it")
        for entry in self.entries():
            if entry.answers == answer.id and entry.state == ACCEPTED:
                raise RefusedError(f"the nonce was already used: bundle {entry.id} answered on {entry.at:%Y-%m-%d}")
        return asked

    def require_later(self, now: datetime) -> None:
        """Check that the clock was not set back, which would make expired bundles valid.

        Raises:
            RefusedError: when the last entry is later than now.
        """
        row = self._connection.execute("SELECT max(at) FROM entries").fetchone()
        if row[0] is not None and (last := datetime.fromisoformat(row[0])) > now + TOLERANCE:
            raise RefusedError(
                f"the clock says {now:%Y-%m-%d %H:%M}, earlier than the last entry of the ledger"
                f" ({last:%Y-%m-%d %H:%M} UTC): set the clock right; if it was wrong then, restore the ledger of before"
                " that entry from a copy"
            )

    def _last(self, direction: str, kind: str, party: str) -> int:
        query = "SELECT max(sequence) FROM entries WHERE direction = ? AND kind = ? AND party = ?"
        return self._connection.execute(query, (direction, kind, party)).fetchone()[0] or 0


@contextmanager
def opened(file: Path) -> Iterator[Ledger]:
    """Open a ledger; everything within the context is one transaction, which an error undoes.

    Others wait meanwhile, so that two admissions at once cannot both be the first.

    Raises:
        EnvironmentFault: when the file is damaged, of a newer version or of another program, stays locked, or cannot be
            written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"the ledger {file} cannot be made: {error.strerror}") from None
    with _explained(file), closing(sqlite3.connect(file, timeout=WAIT_SECONDS, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            _require_sound(connection, file)
            yield Ledger(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _require_sound(connection: sqlite3.Connection, file: Path) -> None:
    """Make the tables of a new file, and check those of another."""
    application, version, found = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "integrity_check")
    )
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables:
        _require_first(file)
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        return
    if application != APPLICATION:
        raise EnvironmentFault(f"{file} is not a ledger of this program: move it away")
    if version > VERSION:
        raise EnvironmentFault(f"the ledger {file} was written by a newer version of this program: update it")
    if found != "ok":
        raise _damaged(file)
    if version == 1 and "digest" not in dict(_columns(connection)):
        _add_digests(connection)
    if _columns(connection) != _expected_columns():
        raise _damaged(file)
    # Each is checked when it is read.
    Ledger(connection).entries()


def _add_digests(connection: sqlite3.Connection) -> None:
    """Give the entries of a ledger of version 1 their digests."""
    connection.execute("ALTER TABLE entries ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
    for row in connection.execute("SELECT * FROM entries").fetchall():
        connection.execute("UPDATE entries SET digest = ? WHERE id = ?", (with_digest(row[:-1])[-1], row[0]))
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _columns(connection: sqlite3.Connection) -> list[tuple]:
    """Return name and type of each column of the entries."""
    return connection.execute("SELECT name, type FROM pragma_table_info('entries')").fetchall()


@cache
def _expected_columns() -> list[tuple]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _columns(connection)


def _require_first(file: Path) -> None:
    """Check that a ledger without entries is a new one, and not one that was lost."""
    for name in ("sealed", "received"):
        folder = file.parent / name
        if folder.is_dir() and any(not each.name.startswith("partial-") for each in folder.iterdir()):
            raise _damaged(file)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise RefusedError(f"the ledger has this bundle already ({error})") from None
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise EnvironmentFault(
                f"the ledger {file} was in use for {WAIT_SECONDS:.0f} s: wait until the other command has ended"
            ) from None
        if "decode" in str(error):
            # The message quotes bytes that are not text.
            raise _damaged(file) from None
        raise EnvironmentFault(f"the ledger {file} cannot be used: {error}") from None
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        # Of damaged text, not even SQLite's own message can be read.
        raise _damaged(file) from None


def _damaged(file: Path) -> EnvironmentFault:
    return EnvironmentFault(
        f"the ledger {file} is damaged or was removed. Restore it from a copy: without it, bundles could be accepted"
        " twice, and what was disclosed is not known"
    )
