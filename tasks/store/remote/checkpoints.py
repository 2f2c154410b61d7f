"""Checkpoints that survive their machine: copied to the object store when saved, fetched to continue elsewhere."""

import logging
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from tasks.core.errors import EnvironmentFault
from tasks.store.checkpoints import CHECKPOINT_FILE, DIGEST_BYTES, checkpoint_step, header_size, is_whole, step_in
from tasks.store.metrics import METRICS_FILE
from tasks.store.remote.objects import Remote

logger = logging.getLogger(__name__)
FOLDER = "work"
PREFIX_BYTES = DIGEST_BYTES + 8


class RemoteWork:
    """Unfinished work under one URL: `work/<key>/` with a checkpoint and the metrics up to it."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._busy = False
        self._told = False

    def fetch(self, folder: Path) -> None:
        """Fetch the checkpoint of the key that names the folder, if it is further than the one in the folder."""
        place = f"{FOLDER}/{folder.name}"
        theirs, mine = self._step(f"{place}/{CHECKPOINT_FILE}"), checkpoint_step(folder / CHECKPOINT_FILE)
        if theirs is None or (mine is not None and mine >= theirs):
            return
        there = self.remote.entries(place)
        fetched = folder / f"{CHECKPOINT_FILE}.fetched"
        try:
            name = f"{place}/{CHECKPOINT_FILE}"
            self.remote.download(name, fetched, there[name].size)
            if not is_whole(fetched):
                logger.warning("the checkpoint at %s is damaged; going on without it", place)
                return
            metrics = self.remote.read(f"{place}/{METRICS_FILE}")
            if metrics is not None:
                (folder / METRICS_FILE).write_bytes(metrics)
            os.replace(fetched, folder / CHECKPOINT_FILE)
            logger.info("going on from step %d, which was reached on another machine", theirs)
        except (FileNotFoundError, KeyError):
            return  # the computation has ended meanwhile
        finally:
            fetched.unlink(missing_ok=True)

    def keep(self, folder: Path) -> None:
        """Copy the folder's checkpoint in the background; of several that wait, only the last is sent."""
        with self._changed:
            self._waiting = folder
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._send_all, name="checkpoints", daemon=True).start()

    def settle(self, wanted: bool = True) -> None:
        """Wait until all that `keep` was given is sent; with wanted=False, only until the current transfer ends."""
        with self._changed:
            if not wanted:
                self._waiting = None
            self._changed.wait_for(lambda: not self._busy)

    def forget(self, key: str) -> None:
        """Delete the checkpoint of a key."""
        self.remote.delete(self.remote.entries(f"{FOLDER}/{key}"))

    def _send_all(self) -> None:
        while True:
            with self._changed:
                folder, self._waiting = self._waiting, None
                if folder is None:
                    self._busy = False
                    self._changed.notify_all()
                    return
            try:
                self._send(folder)
            except (EnvironmentFault, OSError) as error:
                if not self._told:
                    logger.warning("a checkpoint stays on this machine only: %s", error)
                    self._told = True

    def _send(self, folder: Path) -> None:
        """Send the metrics first: they may cover more steps than the checkpoint, never fewer."""
        place, copy = f"{FOLDER}/{folder.name}", folder / f"{CHECKPOINT_FILE}.sending"
        metrics = folder / f"{METRICS_FILE}.sending"
        copy.unlink(missing_ok=True)
        # The next save replaces the file name; this hard link keeps the file that is being sent.
        os.link(folder / CHECKPOINT_FILE, copy)
        try:
            with suppress(FileNotFoundError):
                shutil.copyfile(folder / METRICS_FILE, metrics)
                self.remote.upload(metrics, f"{place}/{METRICS_FILE}")
            self.remote.upload(copy, f"{place}/{CHECKPOINT_FILE}")
        finally:
            copy.unlink(missing_ok=True)
            metrics.unlink(missing_ok=True)

    def _step(self, name: str) -> int | None:
        """Return the step of a remote checkpoint, from its first bytes; None if there is none or it is damaged."""
        begin = self.remote.read(name, 0, PREFIX_BYTES)
        size = header_size(begin) if begin is not None else None
        if size is None:
            return None
        header = self.remote.read(name, PREFIX_BYTES, PREFIX_BYTES + size)
        try:
            return step_in(header or b"")
        except (ValueError, KeyError, TypeError):
            return None
