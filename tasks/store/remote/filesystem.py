"""File systems of object stores, opened through fsspec."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

from tasks.core.errors import EnvironmentFault, InputError
from tasks.store.loopback import require_proxy

CONNECT_SECONDS, ANSWER_SECONDS, CALL_SECONDS = 5, 15, 60.0
# Where buckets are that no variable gives an address for.
S3 = "https://s3.amazonaws.com"
# Parts of one transfer that are in memory at once.
PARTS = 2


class Bounded:
    """A file system whose calls end within a time, where it can be told."""

    def __init__(self, files: Any, seconds: float) -> None:
        self._files, self._seconds = files, seconds

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._files, name)
        limit = {"timeout": self._seconds} if self._files.async_impl else {}
        return lambda *positional, **named: method(*positional, **named, **limit)


def check_url(url: str) -> None:
    """Raise InputError for a URL that names no object store, or that holds credentials."""
    protocol, separator, rest = url.partition("://")
    if not separator or not rest.strip("/"):
        raise InputError(
            f"place.store = {protocol}: name a folder, or a bucket and a prefix such as s3://bucket/prefix"
        )
    if "@" in rest or "?" in rest:
        # Not quoted: what stands before the @ may be a password.
        raise InputError(
            f"place.store is a {protocol}:// URL with credentials or a query in it; give only bucket and prefix, and"
            " the credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if protocol in ("file", "local"):
        raise InputError(f"place.store = {url}: name the folder itself, without {protocol}://")


def credentials() -> dict[str, str]:
    """What the environment says about object stores. The server that stages are forked from may not know it yet."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "FSSPEC_", "GOOGLE_"))}


def open_files(protocol: str, is_s3: bool) -> Any:
    """The file system of a protocol, with bounded waiting and bounded memory. Raises EnvironmentFault."""
    import fsspec

    if is_s3:
        require_proxy(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or S3, os.environ)
    timeouts = {"connect_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS, "retries": {"max_attempts": 0}}
    options: dict[str, Any] = {"max_concurrency": PARTS, "config_kwargs": timeouts} if is_s3 else {}
    try:
        files = fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True, **options)
    except (ImportError, ValueError) as error:
        raise EnvironmentFault(
            f"a store at {protocol}:// needs a package that is not installed ({error}); for s3://:"
            " pip install 'crash-flow[service]'"
        ) from error
    if files.async_impl:
        files.loop.set_exception_handler(_without_lost_connections)
    if is_s3:
        # Attempts are counted here; two layers of them would multiply.
        files.retries = 1
        files.connect(timeout=CALL_SECONDS)
    return files


def _without_lost_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what no call waits for, except a lost connection: the call whose connection it was raises its own."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)
