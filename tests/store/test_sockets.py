"""Stages start whatever TMPDIR says: their sockets lie in a short folder of the user's own, and go with the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentFault
from tasks.store import sockets
from tests.places import ROOT

PROGRAM = """
import tempfile
from pathlib import Path
from multiprocessing.forkserver import _forkserver
from tasks.engine import child_process
child_process.context.set_forkserver_preload = lambda names: None
child_process.warm_up()
where = Path(_forkserver._forkserver_address)
print(where, oct(where.parent.stat().st_mode & 0o777), where.parent.stat().st_uid, tempfile.gettempdir())
"""


@pytest.mark.parametrize("length", [10, 100, 200])
def test_the_socket_is_short_private_and_removed_at_the_end(tmp_path, length):
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    told = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", PROGRAM], env=told, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    socket, mode, owner, temporary = answer.stdout.split()
    assert len(socket) <= sockets.LONGEST_PATH
    assert (mode, owner, temporary) == ("0o700", str(os.getuid()), str(folder))
    assert not Path(socket).parent.exists()
    assert list(folder.iterdir()) == []


def test_without_a_short_folder_it_is_said(monkeypatch):
    monkeypatch.setattr(sockets.tempfile, "gettempdir", lambda: "/" + "x" * 100)
    monkeypatch.setattr(sockets.os, "access", lambda *_: False)
    with pytest.raises(EnvironmentFault, match=r"101 characters.* set TMPDIR to a folder of at most 72"):
        sockets.folder_for_sockets()
