"""Objects under one URL of an object store (S3 API and the like, through fsspec), with bounded waiting.

The store must guarantee that an object appears whole or not at all, that a listing shows all earlier writes, and that
an object can be created on the condition that it does not exist. `Remote.check` tests the last at the start of each
run.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import EnvironmentFault
from tasks.store.disk import DISK_ERRORS
from tasks.store.patience import watched
from tasks.store.remote.filesystem import CALL_SECONDS, Bounded, check_url, open_files

Result = TypeVar("Result")
# With a server that accepts connections but never answers, three attempts take about a minute.
ATTEMPTS, FIRST_WAIT_SECONDS = 3, 1.0
# A slower transfer has stalled.
SLOWEST_BYTES_PER_SECOND = 100_000
# One transfer needs memory for a few parts of this size.
PART_BYTES = 16 * 2**20
# S3 accepts at most 10,000 parts of one object.
MOST_PARTS = 9_000
ADVICE = (
    "check the address and the network, the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and, for a server"
    " that is not Amazon's, AWS_ENDPOINT_URL; or choose another store (place.store)"
)


@dataclass(frozen=True)
class Entry:
    """An object: size in bytes, and time of writing in seconds since 1970 by the server's clock."""

    size: int
    modified: float


class Remote:
    """Objects under a URL. Every method ends within about a minute, transfers in proportion to their size.

    Raises:
        EnvironmentFault: from any method, after the last attempt; names the URL, never a credential.
    """

    def __init__(self, url: str, attempts: int = ATTEMPTS, first_wait: float = FIRST_WAIT_SECONDS) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self.attempts, self.first_wait = attempts, first_wait
        self._lock = threading.Lock()
        self._opened: Any = None

    def read(self, name: str, begin: int | None = None, end: int | None = None) -> bytes | None:
        """Return the content of an object, or its bytes from begin to end; None if it does not exist."""
        try:
            return self._call("reading from", lambda fs: fs.cat_file(self._path(name), start=begin, end=end))
        except FileNotFoundError:
            return None

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of those objects that exist."""
        paths = {self._path(name): name for name in names}
        if not paths:
            return {}
        found = self._call("reading from", lambda fs: fs.cat(list(paths), on_error="omit"))
        return {paths[path]: content for path, content in found.items()}

    def write(self, name: str, content: bytes) -> None:
        """Write a small object, replacing an existing one."""
        self._change(lambda fs: fs.pipe_file(self._path(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a small object unless it exists; return whether the object now has the given content."""
        try:
            self._change(lambda fs: fs.pipe_file(self._path(name), content, mode="create"))
        except FileExistsError:
            # If the answer to a first attempt was lost, the second one finds what the first wrote.
            return self.read(name) == content
        return True

    def upload(self, path: Path, name: str) -> None:
        """Upload a file from disk, in parts."""
        size = path.stat().st_size
        options = {"chunksize": max(PART_BYTES, size // MOST_PARTS)} if self._is_s3() else {}
        what = f"the upload of {name} to the store {self.url}"
        self._change(lambda fs: fs.put_file(str(path), self._path(name), **options), size, what)

    def download(self, name: str, path: Path, size: int) -> None:
        """Download an object into a file, in parts.

        Raises:
            FileNotFoundError: when it does not exist.
            OSError: when the local disk fails.
        """
        options = {"chunksize": PART_BYTES} if self._is_s3() else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        what = f"the download of {name} from the store {self.url}"
        self._call("reading from", lambda fs: fs.get_file(self._path(name), str(path), **options), size, what)

    def entries(self, prefix: str) -> dict[str, Entry]:
        """Return the objects under a folder, by name."""
        found = self._call("listing", lambda fs: fs.find(self._path(prefix), detail=True))
        start = len(self._path("x")) - 1
        return {path[start:]: Entry(facts["size"], _seconds(facts)) for path, facts in sorted(found.items())}

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects in this order; missing ones are ignored."""
        for path in map(self._path, names):
            with suppress(FileNotFoundError):
                self._call("deleting from", partial(_remove, path))

    def now(self) -> float:
        """Return the server's time, in seconds since 1970."""
        name = f"probes/{uuid.uuid4()}"
        self.write(name, b"")
        try:
            return self.entries(name)[name].modified
        finally:
            self.delete([name])

    def check(self) -> None:
        """Check that objects can be written, and that a second creation is refused.

        Raises:
            EnvironmentFault: when writing fails, or the server ignores the condition.
        """
        name = f"probes/{uuid.uuid4()}"
        if not self.create(name, b"first"):
            raise EnvironmentFault(f"the store {self.url} says that a new object exists; {ADVICE}")
        try:
            if self.create(name, b"second") or self.read(name) != b"first":
                raise EnvironmentFault(
                    f"the server behind {self.url} ignores the condition of a conditional write (If-None-Match), so two"
                    " workers could compute one thing at once; update it, or use a shared directory (place.store)"
                )
        finally:
            self.delete([name])

    def _path(self, name: str) -> str:
        return f"{self.url.partition('://')[2]}/{name}"

    def _is_s3(self) -> bool:
        return self.url.startswith(("s3://", "s3a://"))

    def _change(self, action: Callable[[Any], Any], size: int = 0, waiting_for: str = "") -> None:
        try:
            self._call("writing to", action, size, waiting_for)
        except FileNotFoundError as error:
            raise EnvironmentFault(f"the bucket of {self.url} does not exist; create it, or {ADVICE}") from error

    def _call(self, what: str, action: Callable[[Any], Result], size: int = 0, waiting_for: str = "") -> Result:
        """Return the action's result. A long wait is logged, be it within one attempt or between several."""
        with watched(waiting_for or f"the store {self.url} to answer ({what} it)"):
            return self._attempts(what, action, size)

    def _attempts(self, what: str, action: Callable[[Any], Result], size: int) -> Result:
        """Return the action's result; a failure that may be temporary is retried."""
        wait = self.first_wait
        for attempt in range(self.attempts):
            try:
                return self._bounded(action, CALL_SECONDS + size / SLOWEST_BYTES_PER_SECOND)
            except EnvironmentFault:
                raise
            except Exception as error:
                if _exists(error):
                    raise FileExistsError(what) from error
                lasting = isinstance(error, FileNotFoundError | PermissionError) or _is_credentials(error)
                if isinstance(error, FileNotFoundError) or _is_local(error):
                    raise
                if lasting or attempt + 1 == self.attempts:
                    raise EnvironmentFault(f"{what} the store {self.url} failed ({_reason(error)}); {ADVICE}") from None
            time.sleep(wait)
            wait *= 2
        raise AssertionError("unreachable")

    def _bounded(self, action: Callable[[Any], Result], seconds: float) -> Result:
        return action(Bounded(self._files(), seconds))

    def _files(self) -> Any:
        """Return the file system, one for all threads of this process."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = os.getpid(), open_files(self.url.partition("://")[0], self._is_s3())
            return self._opened[1]


def _remove(path: str, files: Any) -> None:
    files.rm_file(path)


def _seconds(facts: dict[str, Any]) -> float:
    moment = facts.get("LastModified") or facts.get("mtime") or facts.get("created") or facts.get("updated")
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment.timestamp() if isinstance(moment, datetime) else float(moment or time.time())


def _code(error: BaseException) -> str:
    """Return the server's error code, if it gave one."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _exists(error: BaseException) -> bool:
    return isinstance(error, FileExistsError) or _code(error) in ("PreconditionFailed", "412")


def _is_credentials(error: BaseException) -> bool:
    return "Credential" in type(error).__name__ or _code(error) in ("InvalidAccessKeyId", "SignatureDoesNotMatch")


def _is_local(error: BaseException) -> bool:
    """Return whether this machine's disk failed, not the server."""
    return isinstance(error, OSError) and error.errno in DISK_ERRORS and not _code(error)


def _reason(error: BaseException) -> str:
    return _code(error) or type(error).__name__
