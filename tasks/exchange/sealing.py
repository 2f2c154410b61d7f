"""Seal a bundle: describe its files, sign the manifest, enter it into the ledger, and hand it over in one step.

The entry is written before the bundle appears. A process that is killed between the two leaves an entry for a bundle
that nobody has, never a bundle that the ledger does not know.
"""

import hashlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.exchange.keys import OwnKey, PublicKey
from tasks.exchange.ledger import Ledger, opened
from tasks.exchange.ledger_entry import entry_of
from tasks.exchange.manifest import FileFacts, Manifest, Party, to_bytes
from tasks.exchange.names import MANIFEST_FILE, SIGNATURE_FILE
from tasks.exchange.place import ExchangePlace
from tasks.store.digests import plain_digest
from tasks.store.files import flush, flush_tree, write_flushed

PACKAGES = ("crash-flow", "torch", "transformers", "safetensors")
DAYS = 90


@dataclass(frozen=True)
class Parties:
    """Sender, with its private key, and recipient of a bundle; days until it expires."""

    sender: OwnKey
    recipient: PublicKey
    days: int = DAYS

    def require_current(self, now: datetime) -> None:
        """Check that a bundle can be sealed now.

        Raises:
            InputError: when one of the keys has expired.
        """
        for key in (self.sender.public, self.recipient):
            if key.expires <= now:
                raise InputError(
                    f"the key of {key.name} expired on {key.expires:%Y-%m-%d}: make a new one (`crash keys new`) and"
                    " have it trusted"
                )

    def header(self, kind: str, ledger: Ledger, now: datetime) -> dict[str, Any]:
        """Return the manifest's fields that every bundle has, but for the files."""
        return {
            "id": uuid.uuid4().hex,
            "sequence": ledger.next_sequence(kind, self.recipient.fingerprint),
            "created": now.replace(microsecond=0),
            "expires": min(now.replace(microsecond=0) + timedelta(days=self.days), self.sender.public.expires),
            "sender": party(self.sender.public),
            "recipient": party(self.recipient),
            "software": {name: version(name) for name in PACKAGES},
        }


def party(key: PublicKey) -> Party:
    """Return what a manifest says of a party."""
    return Party(name=key.name, fingerprint=key.fingerprint)


def require_room(out: Path) -> None:
    """Check, before anything is computed, that a bundle can be written to a place.

    Raises:
        InputError: when something is there, or the folder around it is missing.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"--out {out}: something is there already; nothing is overwritten, choose another place")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}")


def seal(
    folder: Path,
    out: Path,
    kind: str,
    describe: Callable[[Ledger, dict[str, Any]], Manifest],
    parties: Parties,
    place: ExchangePlace,
    now: datetime,
) -> Manifest:
    """Sign the files in a folder and move it to `out`.

    folder: on the same disk as `out`, with all files but manifest and signature; kind: of the bundle; describe: makes
    the manifest from its common fields, and may look into the ledger; place: of the sender.

    Raises:
        InputError: when something is at `out`.
        RefusedError: when the clock was set back, or as `describe`.
    """
    parties.require_current(now)
    files = file_facts(folder)
    flush_tree(folder)
    with opened(place.ledger) as ledger:
        ledger.require_later(now)
        manifest = describe(ledger, {**parties.header(kind, ledger, now), "files": files})
        content = to_bytes(manifest)
        write_flushed(folder / MANIFEST_FILE, content)
        write_flushed(folder / SIGNATURE_FILE, parties.sender.sign(content))
        ledger.add(entry_of(manifest, hashlib.sha256(content).hexdigest(), "out", now))
    hand_over(folder, out)
    return manifest


def hand_over(folder: Path, out: Path) -> None:
    """Move a private folder to its place, where others may read it as any new folder.

    Raises:
        InputError: when something is there.
    """
    require_room(out)
    folder.chmod(0o777 & ~_umask())
    try:
        os.replace(folder, out)
    except OSError:
        # Something came there meanwhile.
        require_room(out)
        raise
    flush(out.absolute().parent)


def file_facts(folder: Path) -> dict[str, FileFacts]:
    """Return sizes and digests of the files in a folder."""
    paths = sorted(folder.iterdir())
    return {path.name: FileFacts(size=path.stat().st_size, sha256=plain_digest(path)) for path in paths}


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
