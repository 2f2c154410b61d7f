"""Record runs, and remove what no recent run refers to."""

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from tasks.store.artifacts import Ref, Store, temporary_prefix
from tasks.store.locks import key_lock
from tasks.store.processes import process_start

DAY_SECONDS = 86_400
# Whether a run on another machine still lives cannot be checked; none is expected to take longer.
FOREIGN_DAYS = 14


@dataclass
class RunRecord:
    """One run: its time, its purpose, how it ended, and which artifacts it used."""

    run_id: str
    flow: str
    name: str
    started: str
    host: str
    pid: int
    process_started: str
    state: str = "running"
    finished: str | None = None
    mlflow_run_id: str | None = None
    computed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    refs: list[tuple[str, str]] = field(default_factory=list)
    report: dict[str, str] | None = None


@dataclass(frozen=True)
class Removed:
    """Something that was removed, or would be in a dry run."""

    what: str
    num_bytes: int


class UsedRefs(list[Ref]):
    """The artifacts that a run has used so far, each written to disk when it is added.

    `collect` keeps those of a run in progress by name: times are unreliable when a clock jumps or two clocks differ.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        super().__init__()
        self._path = _used_path(store, run_id)

    def append(self, ref: Ref) -> None:
        """Add an artifact; a store that cannot be written is skipped, as `gc` cannot change it either."""
        super().append(ref)
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a") as file:
                file.write(f"{ref.stage} {ref.key}\n")


def record_run(store: Store, run_id: str, flow: str, name: str, settings: dict[str, Any]) -> None:
    """Record the start of a run."""
    record = RunRecord(
        run_id, flow, name, _now(), os.uname().nodename, os.getpid(), process_start(os.getpid()), settings=settings
    )
    _write(store, record)


def finish_run(
    store: Store,
    run_id: str,
    state: str,
    used: list[Ref],
    mlflow_run_id: str | None,
    computed: int,
    report: Ref | None = None,
) -> None:
    """Record how a run ended, which artifacts it used, and its report, so that any machine can open it."""
    record = _parse(store.read_record(run_id) or b"")
    if record is None:
        return
    record.state, record.finished, record.mlflow_run_id, record.computed = state, _now(), mlflow_run_id, computed
    record.report = report.model_dump(include={"stage", "key", "digest"}) if report else None
    record.refs = sorted({(ref.stage, ref.key) for ref in used})
    _write(store, record)
    with suppress(OSError):
        _used_path(store, run_id).unlink(missing_ok=True)


def list_runs(store: Store) -> list[RunRecord]:
    """List all runs, newest first; a run marked as running whose process is gone has state `crashed`."""
    found = [record for content in store.read_records().values() if (record := _parse(content))]
    for record in found:
        if record.state == "running" and not _alive(record):
            record.state = "crashed"
    return sorted(found, key=lambda record: record.started, reverse=True)


def collect(store: Store, days: float, dry_run: bool = False) -> list[Removed]:
    """Remove artifacts that no run of the last `days` days refers to, and leftovers of dead processes.

    All that a run in progress may still need is kept: the artifacts that it has used, by name; those made or found
    since its start, by time (`find` by a stage touches the folder); and keys that are being computed, by their lock.
    """
    since = time.time() - days * DAY_SECONDS
    runs = list_runs(store)
    kept = {ref for record in runs if _seconds(record.started) >= since for ref in map(tuple, record.refs)}
    running = [record for record in runs if record.state == "running"]
    kept |= {ref for record in running for ref in _used(store, record.run_id)}
    oldest_wanted = min([since, *(_seconds(record.started) for record in running)])
    removed = []
    for folder in sorted((store.root / "artifacts").glob("*/*")):
        stage, key = folder.parent.name, folder.name
        if (stage, key) not in kept and folder.stat().st_mtime < oldest_wanted:
            removed += _remove_locked(store, stage, key, folder, dry_run)
    return removed + _remove_leftovers(store, since, bool(running), dry_run)


def is_abandoned(folder: Path, since: float, prefix: str = "") -> bool:
    """Return whether a temporary folder's process is gone; for another machine's process, its age decides.

    prefix: of the folder's name, before process and machine (`temporary_prefix`).
    """
    pid, _, rest = folder.name.removeprefix(prefix).partition("@")
    if rest.startswith(f"{os.uname().nodename}-"):
        return not Path(f"/proc/{pid}").exists()
    return folder.stat().st_mtime < since


def _remove_locked(store: Store, stage: str, key: str, folder: Path, dry_run: bool) -> list[Removed]:
    try:
        with key_lock(store.root / "locks", stage, key, blocking=False):
            return _remove(folder, f"{stage} {key[:12]}", dry_run, store.root / "tmp")
    except Timeout:
        return []


def _remove_leftovers(store: Store, since: float, any_running: bool, dry_run: bool) -> list[Removed]:
    removed, trash = [], store.root / "tmp"
    for folder in sorted((store.root / "quarantine").glob("*")):
        if folder.lstat().st_mtime < since:
            removed += _remove(folder, f"quarantine {folder.name[:24]}", dry_run, trash)
    for folder in sorted((store.root / "tmp").glob("*-*")):
        if is_abandoned(folder, since):
            removed += _remove(folder, f"temporary {folder.name[:24]}", dry_run, trash)
    if not any_running:
        for folder in sorted((store.root / "work").glob("*")):
            if folder.stat().st_mtime < since:
                removed += _remove(folder, f"checkpoint {folder.name[:12]}", dry_run, trash)
    return removed


def _remove(folder: Path, what: str, dry_run: bool, store_tmp: Path) -> list[Removed]:
    if folder.is_symlink() or folder.is_file():
        size = folder.lstat().st_size
        if not dry_run:
            folder.unlink()
        return [Removed(what, size)]
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    if not dry_run:
        # Rename it first: an artifact is complete or absent at every moment.
        waste = store_tmp / f"{temporary_prefix()}gc-{time.time_ns()}"
        waste.parent.mkdir(exist_ok=True)
        os.rename(folder, waste)
        shutil.rmtree(waste)
    return [Removed(what, size)]


def _used_path(store: Store, run_id: str) -> Path:
    return store.root / "runs" / f"{run_id}.used"


def _used(store: Store, run_id: str) -> set[tuple[str, ...]]:
    """Return (stage, key) of all artifacts that a run in progress has used."""
    try:
        return {tuple(line.split()) for line in _used_path(store, run_id).read_text().splitlines()}
    except (OSError, ValueError):
        return set()


def _parse(content: bytes) -> RunRecord | None:
    try:
        values = json.loads(content)
        values["refs"] = [tuple(ref) for ref in values["refs"]]
        return RunRecord(**values)
    except (ValueError, KeyError, TypeError):
        return None


def _write(store: Store, record: RunRecord) -> None:
    store.write_record(record.run_id, json.dumps(asdict(record), indent=1).encode())


def _alive(record: RunRecord) -> bool:
    if record.host != os.uname().nodename:
        return time.time() - _seconds(record.started) < FOREIGN_DAYS * DAY_SECONDS
    return process_start(record.pid) == record.process_started != ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
