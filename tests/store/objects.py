"""An S3 server on loopback in this process, which tests can stop, damage and forbid to write."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.exceptions import S3AccessDeniedError
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

SECRET = "not-to-be-seen"
CHANGES = ("put_object", "delete_object")


class Objects:
    """The server, and one bucket of it."""

    def __init__(self) -> None:
        self.server: ThreadedMotoServer | None = None
        self.port = 0
        self.bucket = ""
        self.start()

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/crash"

    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_bucket(self) -> None:
        """Nothing of what was there before."""
        self.bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(self.bucket, "us-east-1")

    def start(self) -> None:
        """Serve, on the same port as before; what was stored is still there."""
        self.server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def stop(self) -> None:
        """Refuse connections."""
        if self.server is not None:
            self.server.stop()
            self.server._server.server_close()
        self.server = None

    @property
    def _keys(self) -> Any:
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[self.bucket].keys

    def names(self, folder: str = "") -> list[str]:
        """Names of all objects below the URL."""
        return sorted(name.removeprefix("crash/") for name in self._keys if name.startswith(f"crash/{folder}"))

    def read(self, name: str) -> bytes:
        return self._keys[f"crash/{name}"].value

    def write(self, name: str, content: bytes) -> None:
        """Put an object behind everybody's back."""
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(self.bucket, f"crash/{name}", content)

    def remove(self, name: str) -> None:
        self._keys.pop(f"crash/{name}")

    def age(self, days: float, *names: str) -> None:
        """Make objects older."""
        for name in names:
            self._keys[f"crash/{name}"].last_modified -= timedelta(days=days)


@contextmanager
def serving() -> Iterator[Objects]:
    """A server for the time of the block; creations are atomic, as those of a real server are."""
    lock, put = threading.Lock(), S3Response.put_object

    def one_at_a_time(self: S3Response) -> Any:
        with lock:
            return put(self)

    S3Response.put_object = one_at_a_time
    objects = Objects()
    try:
        yield objects
    finally:
        objects.stop()
        S3Response.put_object = put


def forbid_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the credentials be good for reading only."""

    def refuse(self: S3Response) -> Any:
        raise S3AccessDeniedError

    for name in CHANGES:
        monkeypatch.setattr(S3Response, name, refuse)
