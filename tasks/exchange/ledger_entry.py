"""An entry of the ledger: a bundle that was sealed or received, and its row in the file.

Each row has a digest of its other columns, so that bits that change on a disk are noticed. It keeps no attacker from
writing to the file.
"""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.exchange.manifest import EmulatorManifest, Manifest, TunedBlocksManifest

SEALED, OPEN, ACCEPTED, DECLINED = "sealed", "open", "accepted", "declined"


@dataclass(frozen=True)
class Entry:
    """A bundle in the ledger.

    direction: "out" or "in"; party, name: fingerprint and name of the other side; answers: id of the emulator that
    tuned blocks are of; manifest: SHA-256 of the manifest's bytes; base: digest of the full model's weights; blocks,
    share: disclosed by an emulator; at: time of the entry.
    """

    id: str
    direction: str
    kind: str
    party: str
    name: str
    sequence: int
    nonce: str | None
    answers: str | None
    manifest: str
    base: str
    blocks: tuple[int, ...]
    share: float | None
    expires: datetime
    at: datetime
    state: str


def entry_of(manifest: Manifest, digest: str, direction: str, at: datetime) -> Entry:
    """Return the entry of a bundle. digest: SHA-256 of its manifest."""
    other = manifest.recipient if direction == "out" else manifest.sender
    emulator = manifest if isinstance(manifest, EmulatorManifest) else None
    answers = manifest.answers.id if isinstance(manifest, TunedBlocksManifest) else None
    return Entry(
        id=manifest.id,
        direction=direction,
        kind=manifest.kind,
        party=other.fingerprint,
        name=other.name,
        sequence=manifest.sequence,
        nonce=emulator.nonce if emulator else None,
        answers=answers,
        manifest=digest,
        base=emulator.base.weights if emulator else manifest.base,  # type: ignore[arg-type]
        blocks=emulator.disclosure.blocks if emulator else (),
        share=emulator.disclosure.share if emulator else None,
        expires=manifest.expires,
        at=at,
        state=SEALED if direction == "out" else OPEN,
    )


def row_of(entry: Entry) -> list[object]:
    """Return the columns of an entry, the last of which is the digest of the others."""
    return with_digest([_stored(getattr(entry, name)) for name in Entry.__dataclass_fields__])


def with_digest(columns: Sequence[object]) -> list[object]:
    """Return columns and their digest."""
    return [*columns, hashlib.sha256(json.dumps(columns).encode()).hexdigest()]


def read_row(row: Sequence[Any]) -> Entry:
    """Return the entry of a row.

    Raises:
        DatabaseError: when it was changed, or cannot be read.
    """
    values = dict(zip(Entry.__dataclass_fields__, row[:-1], strict=True))
    try:
        if with_digest(row[:-1])[-1] != row[-1]:
            raise sqlite3.DatabaseError("an entry was changed")
        values["blocks"] = tuple(json.loads(values["blocks"]))
        values |= {name: datetime.fromisoformat(values[name]) for name in ("expires", "at")}
    except (ValueError, TypeError):
        raise sqlite3.DatabaseError("an entry cannot be read") from None
    return Entry(**values)


def _stored(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    return json.dumps(value) if isinstance(value, tuple) else value
