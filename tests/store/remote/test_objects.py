"""Objects under a URL: created once, read whole, and every failure an error that names the place and ends in time."""

import socket
import time

import pytest
from moto.s3.responses import S3Response

from tasks.core.errors import EnvironmentFault, InputError
from tasks.store.remote.objects import Remote
from tests.store.objects import SECRET, forbid_writing

MEBIBYTE = 2**20


@pytest.fixture
def remote(objects):
    return Remote(objects.url, first_wait=0.05)


def test_what_is_written_is_read_listed_and_deleted(remote, objects):
    assert remote.read("runs/a.json") is None
    assert remote.entries("runs") == {}
    before = time.time()
    for name in ("runs/a.json", "runs/b.json", "elsewhere/c.json"):
        remote.write(name, name.encode())
    assert remote.read("runs/a.json") == b"runs/a.json"
    assert remote.read("runs/a.json", 0, 4) == b"runs"
    found = remote.entries("runs")
    assert {name: entry.size for name, entry in found.items()} == {"runs/a.json": 11, "runs/b.json": 11}
    assert all(before - 2 < entry.modified < time.time() + 2 for entry in found.values())
    assert remote.read_many(["runs/b.json", "runs/none"]) == {"runs/b.json": b"runs/b.json"}
    remote.delete(["runs/a.json", "runs/none"])
    assert objects.names() == ["elsewhere/c.json", "runs/b.json"]
    assert abs(remote.now() - time.time()) < 3


def test_created_once(remote):
    assert remote.create("x", b"first")
    assert not remote.create("x", b"second")
    assert remote.read("x") == b"first"
    # A second attempt whose first one had arrived finds its own content.
    assert remote.create("x", b"first")


def test_files_go_and_come_in_parts(remote, objects, tmp_path):
    content = bytes(range(256)) * (40 * MEBIBYTE // 256)
    (tmp_path / "large").write_bytes(content)
    remote.upload(tmp_path / "large", "deep/large")
    assert objects.read("deep/large") == content
    remote.download("deep/large", tmp_path / "folder" / "copy", len(content))
    assert (tmp_path / "folder" / "copy").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        remote.download("deep/none", tmp_path / "none", 1)


def test_the_check_passes_and_leaves_nothing(remote, objects):
    remote.check()
    assert objects.names() == []


def test_a_server_without_conditional_writes_is_refused(remote, objects, monkeypatch):
    put = S3Response.put_object

    def ignoring(self):
        self.headers = {name: value for name, value in self.headers.items() if name.lower() != "if-none-match"}
        return put(self)

    monkeypatch.setattr(S3Response, "put_object", ignoring)
    with pytest.raises(EnvironmentFault, match=f"behind {objects.url} ignores the condition .* shared directory"):
        remote.check()


def test_no_bucket(objects):
    with pytest.raises(EnvironmentFault, match=r"bucket of s3://nowhere-at-all/crash does not exist; create it"):
        Remote("s3://nowhere-at-all/crash").check()


def test_credentials_that_only_read(remote, objects, monkeypatch):
    objects.write("x", b"1")
    forbid_writing(monkeypatch)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=rf"writing to the store {objects.url} failed \(AccessDenied\); check"):
        Remote(objects.url, first_wait=60).check()
    assert time.monotonic() - began < 60, "a refusal is not tried again"
    assert remote.read("x") == b"1"


def test_no_credentials(objects, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(EnvironmentFault, match=r"\(NoCredentialsError\); .*AWS_ACCESS_KEY_ID"):
        Remote(objects.url).check()


def test_a_server_that_is_away(remote, objects, tmp_path):
    remote.check()
    objects.stop()
    (tmp_path / "file").write_text("x")
    calls = [
        remote.check,
        lambda: remote.read("x"),
        lambda: remote.entries("runs"),
        lambda: remote.upload(tmp_path / "file", "x"),
        lambda: remote.delete(["x"]),
    ]
    for call in calls:
        began = time.monotonic()
        with pytest.raises(EnvironmentFault, match=f"the store {objects.url} failed .*AWS_ENDPOINT_URL") as raised:
            call()
        assert time.monotonic() - began < 20
        assert SECRET not in str(raised.value)
    objects.start()
    remote.check()


def test_a_short_outage_is_not_noticed(objects, monkeypatch):
    remote, failures = Remote(objects.url, first_wait=0.05), []
    put = S3Response.put_object

    def failing_once(self):
        if not failures:
            failures.append(1)
            return 503, {}, "<Error><Code>SlowDown</Code></Error>"
        return put(self)

    monkeypatch.setattr(S3Response, "put_object", failing_once)
    remote.write("x", b"1")
    assert failures
    assert objects.read("x") == b"1"


def test_a_server_that_never_answers(objects, monkeypatch):
    monkeypatch.setattr("tasks.store.remote.filesystem.ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(EnvironmentFault, match="ReadTimeout"):
            Remote(objects.url, attempts=2, first_wait=0.05).read("x")
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "url", ["s3://", "bucket/prefix", f"s3://key:{SECRET}@bucket/x", "s3://bucket/x?a=b", "file:///x"]
)
def test_urls_that_cannot_be_a_store(url):
    with pytest.raises(InputError, match=r"place\.store") as raised:
        Remote(url)
    assert SECRET not in str(raised.value)


def test_a_protocol_without_its_package():
    with pytest.raises(EnvironmentFault, match=r"needs a package that is not installed .*crash-flow\[service\]"):
        Remote("nosuch://bucket/x").check()


def test_a_lost_connection_is_told_by_its_call_alone(remote, caplog):
    assert remote.entries("runs") == {}
    loop = remote._files().loop

    def unheard(error: Exception) -> None:
        """What asyncio does when a task ends with an error that nobody asks for."""
        loop.call_soon_threadsafe(loop.call_exception_handler, {"message": "never retrieved", "exception": error})

    unheard(ConnectionResetError("Cannot write to closing transport"))
    unheard(RuntimeError("a mistake"))
    deadline = time.monotonic() + 10
    while "a mistake" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "a mistake" in caplog.text
    assert "closing transport" not in caplog.text
