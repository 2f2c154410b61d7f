"""Remove from an object store what no recent run refers to. Ages are measured by the server's clock alone."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.store.gc import DAY_SECONDS, Removed, list_runs
from tasks.store.manifests import MANIFEST
from tasks.store.remote.artifacts import files_folder
from tasks.store.remote.objects import Entry
from tasks.store.remote.store import CachedRemoteStore

# Longer than any upload takes until its manifest, and any lease until it is renewed: older ones are abandoned.
ABANDONED_SECONDS = float(DAY_SECONDS)
Entries = dict[str, Entry]


@dataclass(frozen=True)
class Waste:
    """Objects under one folder that can be removed."""

    what: str
    place: str
    entries: Entries


def collect_remote(store: CachedRemoteStore, days: float, dry_run: bool = False) -> list[Removed]:
    """Remove artifacts that no run of the last `days` days refers to, and leftovers of dead workers.

    Artifacts that were made or found since the start of the oldest run in progress are kept, and so are checkpoints.
    """
    remote = store.remote
    now = remote.now()
    since = now - days * DAY_SECONDS
    written = remote.entries("runs")
    kept: set[tuple[str, str]] = set()
    wanted = since
    for record in list_runs(store):
        entry = written.get(f"runs/{record.run_id}.json")
        # A record that only this machine has belongs to a run without network, and counts as new.
        modified = entry.modified if entry else now
        if record.state == "running":
            wanted = min(wanted, modified)
        if modified >= since:
            kept |= set(record.refs)
    abandoned = now - ABANDONED_SECONDS
    waste = _artifacts(store, kept, wanted, now)
    for folder, limit in (("quarantine", since), ("work", wanted), ("leases", abandoned), ("probes", abandoned)):
        waste += _older(remote.entries(folder), limit)
    removed = []
    for each in waste:
        if each.place.startswith("artifacts/") and remote.entries(each.place) != each.entries:
            continue  # found or finished since the listing
        if not dry_run:
            # Delete the manifest first: an artifact is complete or absent at every moment.
            remote.delete(sorted(each.entries, key=lambda name: not name.endswith(f"/{MANIFEST}")))
        removed.append(Removed(f"{each.what} in {remote.url}", sum(entry.size for entry in each.entries.values())))
    return removed


def _artifacts(store: CachedRemoteStore, kept: set[tuple[str, str]], wanted: float, now: float) -> list[Waste]:
    """Return artifacts that no run needs, and files of unfinished ones."""
    waste = []
    for place, entries in _groups(store.remote.entries("artifacts"), depth=3).items():
        _, stage, key = place.split("/")
        name, own = f"{stage} {key[:12]}", [entries.get(f"{place}/{each}") for each in (MANIFEST, "used")]
        if own[0] is None:
            if _youngest(entries.values()) < now - ABANDONED_SECONDS:
                waste.append(Waste(f"unfinished {name}", place, entries))
        elif (stage, key) not in kept and _youngest(filter(None, own)) < wanted:
            waste.append(Waste(name, place, entries))
        else:
            waste += _other_writers(store, name, place, entries, now)
    return waste


def _other_writers(store: CachedRemoteStore, name: str, place: str, entries: Entries, now: float) -> list[Waste]:
    """Return folders of files that the manifest does not name, unless an upload to them may still be in progress."""
    folders = _groups({path: entry for path, entry in entries.items() if path.count("/") > 3}, depth=4)
    if len(folders) < 2:
        return []
    believed = files_folder(place, store.remote.read(f"{place}/{MANIFEST}") or b"")
    return [
        Waste(f"unfinished {name}", folder, each)
        for folder, each in folders.items()
        if folder != believed and _youngest(each.values()) < now - ABANDONED_SECONDS
    ]


def _older(entries: Entries, limit: float) -> list[Waste]:
    """Return objects that were last written before a moment, one group for each name directly below the folder."""
    return [
        Waste(place[:40], place, each)
        for place, each in _groups(entries, depth=2).items()
        if _youngest(each.values()) < limit
    ]


def _groups(entries: Entries, depth: int) -> dict[str, Entries]:
    """Group entries by the first parts of their names."""
    groups: dict[str, Entries] = defaultdict(dict)
    for name, entry in entries.items():
        groups["/".join(name.split("/")[:depth])][name] = entry
    return groups


def _youngest(entries: Iterable[Entry]) -> float:
    return max(entry.modified for entry in entries)
