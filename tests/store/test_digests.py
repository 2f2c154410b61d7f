"""Digests are right whether remembered or not."""

import hashlib
import os
import time

import pytest

from tasks.store import digests
from tasks.store.digests import Digests, plain_digest


@pytest.fixture
def file(tmp_path):
    """A file that settled a minute ago as far as its content's time stamp goes."""
    path = tmp_path / "weights"
    path.write_bytes(b"content" * 1000)
    return path


@pytest.fixture
def settled(monkeypatch):
    """Remember at once, also what was written just now."""
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)


def counted(monkeypatch) -> list:
    """The files that were read in full."""
    read = []
    plain = digests.plain_digest
    monkeypatch.setattr(digests, "plain_digest", lambda path: read.append(path) or plain(path))
    return read


def test_equals_sha256(file):
    assert plain_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.usefixtures("settled")
def test_read_once_also_by_another_process(file, tmp_path, monkeypatch):
    read = counted(monkeypatch)
    first, second = Digests(tmp_path / "memory"), Digests(tmp_path / "memory")
    assert first(file) == first(file) == second(file) == plain_digest(file)
    assert read == [file]


@pytest.mark.usefixtures("settled")
def test_a_changed_file_is_read_again(file, tmp_path):
    remembered = Digests(tmp_path / "memory")
    before = remembered(file)
    file.write_bytes(b"another" * 1000)
    assert remembered(file) == plain_digest(file) != before


@pytest.mark.usefixtures("settled")
def test_a_change_that_restores_the_time_of_change_is_seen(file, tmp_path):
    remembered = Digests(tmp_path / "memory")
    before, status = remembered(file), os.stat(file)
    time.sleep(0.02)
    file.write_bytes(b"another" * 1000)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert remembered(file) != before


def test_a_file_written_just_now_is_not_trusted_later(file, tmp_path, monkeypatch):
    read = counted(monkeypatch)
    remembered = Digests(tmp_path / "memory")
    remembered(file)
    remembered(file)
    assert read == [file, file]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"garbage\n\xff\xfe", b'["a:b", "short"]\n', b'{"a": 1}\n[1]\n', b""])
def test_a_damaged_memory_costs_time_only(file, tmp_path, content):
    (tmp_path / "memory").write_bytes(content)
    assert Digests(tmp_path / "memory")(file) == plain_digest(file)


def test_an_unwritable_memory_costs_time_only(file, tmp_path, settled):
    assert Digests(tmp_path / "no folder" / "memory")(file) == plain_digest(file)
