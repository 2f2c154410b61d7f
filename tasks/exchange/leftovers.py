"""Folders that killed commands of the exchange have left: found by their names, and by the ledger.

A command writes into a private folder whose name has its process and machine, and renames it when all is there. What
was renamed, but is not in the ledger, was left by a process that was killed before its transaction ended.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.exchange.ledger import opened
from tasks.exchange.place import ExchangePlace
from tasks.store.artifacts import temporary_prefix
from tasks.store.gc import DAY_SECONDS, Removed, is_abandoned

PARTIAL = "partial-"


def partial_prefix() -> str:
    """Return the prefix of this process's private folders."""
    return f"{PARTIAL}{temporary_prefix()}"


def find_abandoned(folder: Path) -> list[Path]:
    """Return the private folders in a folder whose processes on this machine are gone."""
    here = f"@{os.uname().nodename}-"
    found = sorted(path for path in folder.glob(f"{PARTIAL}*{here}*") if path.is_dir() and not path.is_symlink())
    return [path for path in found if is_abandoned(path, 0, PARTIAL)]


def collect_exchange(place: ExchangePlace, days: float, dry_run: bool = False) -> list[Removed]:
    """Remove what killed commands have left in a home, and copies that were found damaged longer than `days` ago.

    Whatever the ledger names stays, and so do the original tensors of plugged models.

    Raises:
        EnvironmentFault: when the ledger cannot be used.
    """
    since = time.time() - days * DAY_SECONDS
    removed = [_remove(path, place, dry_run) for path in _unfinished(place, since)]
    if place.ledger.exists():
        # Within the transaction no other command can be between its folder and its entry.
        with opened(place.ledger) as ledger:
            entries = ledger.entries()
            known = {entry.manifest for entry in entries} | {entry.id for entry in entries}
            removed += [_remove(path, place, dry_run) for path in _unknown(place, known)]
    return removed


def _unfinished(place: ExchangePlace, since: float) -> Iterator[Path]:
    for folder in (place.received, place.verifying, place.plugged):
        yield from (path for path in sorted(folder.glob(f"{PARTIAL}*")) if is_abandoned(path, since, PARTIAL))
    yield from (path for path in sorted(place.quarantine.glob("*")) if path.stat().st_mtime < since)


def _unknown(place: ExchangePlace, known: set[str]) -> Iterator[Path]:
    for folder in (place.received, place.sealed):
        yield from (
            path for path in sorted(folder.glob("*")) if path.name not in known and not path.name.startswith(PARTIAL)
        )


def _remove(folder: Path, place: ExchangePlace, dry_run: bool) -> Removed:
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    if not dry_run:
        shutil.rmtree(folder)
    return Removed(f"exchange {folder.relative_to(place.root)}"[:60], size)
