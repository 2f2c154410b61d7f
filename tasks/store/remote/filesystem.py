"""Open the file systems of object stores through fsspec."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

from tasks.core.errors import EnvironmentFault, InputError
from tasks.store.loopback import require_proxy

CONNECT_SECONDS, ANSWER_SECONDS, CALL_SECONDS = 5, 15, 60.0
# The address of buckets for which no variable gives one.
S3 = "https://s3.amazonaws.com"
# Parts of one transfer that are in memory at the same time.
PARTS = 2


class Bounded:
    """A file system whose calls have a timeout, where the file system supports one."""

    def __init__(self, files: Any, seconds: float) -> None:
        self._files, self._seconds = files, seconds

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._files, name)
        limit = {"timeout": self._seconds} if self._files.async_impl else {}
        return lambda *positional, **named: method(*positional, **named, **limit)


def check_url(url: str) -> None:
    """Check that a URL names an object store and holds no credentials.

    Raises:
        InputError: when it names none, or has credentials or a query.
    """
    protocol, separator, rest = url.partition("://")
    if not separator or not rest.strip("/"):
        raise InputError(
            f"place.store = {protocol}: name a folder, or a bucket and a prefix such as s3://bucket/prefix"
        )
    if "@" in rest or "?" in rest:
        # Do not quote the URL: the text before the @ may be a password.
        raise InputError(
            f"place.store is a {protocol}:// URL with credentials or a query in it; give only bucket and prefix, and"
            " the credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if protocol in ("file", "local"):
        raise InputError(f"place.store = {url}: name the folder itself, without {protocol}://")


def credentials() -> dict[str, str]:
    """Return the environment's variables for object stores, which the server that forks stages may not have yet."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "FSSPEC_", "GOOGLE_"))}


def open_files(protocol: str, is_s3: bool) -> Any:
    """Open the file system of a protocol, with bounded waiting and bounded memory.

    Raises:
        EnvironmentFault: when a package is missing, or the proxy cannot be used.
    """
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
        # Retries are done in `Remote`; two layers of them would multiply.
        files.retries = 1
        files.connect(timeout=CALL_SECONDS)
    return files


def _without_lost_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report errors that no call awaits, except lost connections: the call that used one raises its own error."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)
