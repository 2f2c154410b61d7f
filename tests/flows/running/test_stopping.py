"""A process that is asked to stop: once is in order, what a batch system repeats is the same, a second time at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.commands import CRASH, clean_environment, small_settings
from tests.places import ROOT

BEGIN = "import os, signal, sys, time; from flows.running import stopping; me = os.getpid(); stopping.listen()\n"
# Python handles a signal that arrives just before a sleep only behind it, so sleeps are short.
WAIT = """
try:
    print("ready", flush=True)
    for _ in range(600):
        time.sleep(0.1)
except KeyboardInterrupt as error:
    with stopping.in_order(stopping.is_request(error)):
        print("closing", flush=True)
        time.sleep({seconds})
    print("closed", flush=True)
    sys.exit(128 + error.number)
"""
# The end of a `try` block in which the request has to arrive.
ANSWERED = """
    for _ in range(200):
        time.sleep(0.1)
    print("never")
except BaseException as error:
    assert stopping.is_request(error)
    print("closing", flush=True)
    sys.exit(143)
"""
ENDLESS = "import time\nprint('ready', flush=True)\nfor _ in range(600):\n    time.sleep(0.1)\n"


def run(code: str, *signals: tuple[float, int], before: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Exit code and lines of a process that gets signals, each after a pause in seconds."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", BEGIN + code],
        stdout=subprocess.PIPE,
        # A buffer could take the following lines along, which `communicate` would not see.
        bufsize=0,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    for pause, number in signals:
        time.sleep(pause)
        process.send_signal(number)
    rest = process.communicate(timeout=30)[0]
    return process.returncode, (first + rest).decode().splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_one_request_is_answered_in_order(number):
    assert run(WAIT.format(seconds=0), (0, number)) == (128 + number, ["ready", "closing", "closed"])


@pytest.mark.parametrize(
    "again",
    # `timeout` sends twice at once, systemd can send SIGHUP behind SIGTERM, a worker passes on what everybody has got.
    [[(0, signal.SIGTERM)], [(0.01, signal.SIGHUP), (0.01, signal.SIGTERM)], [(0.3, signal.SIGTERM)]],
)
def test_the_same_request_again_changes_nothing(again):
    code, lines = run(WAIT.format(seconds=0.6), (0, signal.SIGTERM), *again)
    assert (code, lines) == (143, ["ready", "closing", "closed"])


@pytest.mark.parametrize(("pause", "number", "code"), [(0.3, signal.SIGINT, 130), (2.2, signal.SIGTERM, 143)])
def test_a_second_request_ends_the_process_at_once(pause, number, code):
    assert run(WAIT.format(seconds=20), (0, number), (pause, number)) == (code, ["ready", "closing"])


def test_a_request_while_something_is_being_closed_is_received_behind_it():
    code = """
try:
    with stopping.in_order(False) as is_stopping:
        print("closing", flush=True)
        while not is_stopping():
            time.sleep(0.01)
        print("closed", flush=True)
    print("never")
except stopping.Stopped as stopped:
    print(stopped)
"""
    assert run(code, (0, signal.SIGTERM)) == (0, ["closing", "closed", "interrupted by SIGTERM"])


def test_a_process_under_nohup_does_not_hear_that_the_terminal_is_gone():
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$0" "$@"')
    lines = run(WAIT.format(seconds=0), (0, signal.SIGHUP), (0.2, signal.SIGTERM), before=ignoring)
    assert lines == (143, ["ready", "closing", "closed"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_flow_begins_it_is_one_line(tmp_path, number):
    """While modules load and the input is checked."""
    settings = small_settings(tmp_path)
    process = subprocess.Popen(
        [str(CRASH), "run", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    # Python handles it from here on; before, the shell says it.
    while not _handles(process.pid, number):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + number, output
    assert output == f"crash: interrupted by {signal.Signals(number).name}; run the same command to continue\n"


def _handles(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1) and bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("handler", ["ours", "prefect's"])
def test_a_request_that_python_can_only_report_is_delivered_again(handler):
    """It arrives in a callback, as the import system and the garbage collector run them."""
    code = """
import weakref
if {prefect}:
    from prefect.utilities.engine import _prefect_sigterm_handler
    signal.signal(signal.SIGTERM, _prefect_sigterm_handler)
class Thing: pass
thing = Thing()
watched = weakref.ref(thing, lambda _: os.kill(me, signal.SIGTERM))
print("ready", flush=True)
try:
    del thing
    print("swallowed", flush=True)
""".format(prefect=handler != "ours")
    code += ANSWERED
    began = time.monotonic()
    assert run(code) == (143, ["ready", "swallowed", "closing"])
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("handler", ["ours", "prefect's"])
def test_a_request_during_an_import_is_answered_behind_it(tmp_path, handler):
    """An exception in the import system could leave a lock behind, on which other threads would wait for ever."""
    (tmp_path / "slow.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(1)\n")
    code = """
sys.path.append({folder!r})
if {prefect}:
    from prefect.utilities import engine
    stopping.put_off_prefect()
    signal.signal(signal.SIGTERM, engine._prefect_sigterm_handler)
print("ready", flush=True)
try:
    import slow
    print("imported", flush=True)
""".format(folder=str(tmp_path), prefect=handler != "ours")
    code += ANSWERED
    assert run(code) == (143, ["ready", "imported", "closing"])


def test_prefects_own_handler_is_put_off_where_it_is_installed_already():
    code = """
from prefect.utilities.engine import _prefect_sigterm_handler, capture_sigterm
with capture_sigterm():
    assert signal.getsignal(signal.SIGTERM) is _prefect_sigterm_handler
    stopping.put_off_prefect()
    stopping.put_off_prefect()
    assert isinstance(signal.getsignal(signal.SIGTERM), stopping.OutsideImports)
    print("ready")
assert signal.getsignal(signal.SIGTERM) is stopping._answer
print("over")
"""
    assert run(code) == (0, ["ready", "over"])


def test_a_second_interrupt_during_an_import_ends_the_process_at_once(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    code = f"sys.path.append({str(tmp_path)!r})\nimport endless\n"
    began = time.monotonic()
    assert run(code, (0, signal.SIGINT), (1, signal.SIGINT)) == (130, ["ready"])
    assert time.monotonic() - began < 10


def test_a_request_does_not_wait_for_an_import_without_end(tmp_path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    code = f"""
sys.path.append({str(tmp_path)!r})
stopping.IMPORT_SECONDS = 1.0
try:
    import endless
except stopping.Stopped:
    print("closing")
    sys.exit(143)
"""
    assert run(code, (0, signal.SIGTERM)) == (143, ["ready", "closing"])


def test_other_errors_in_callbacks_are_reported_as_ever():
    code = """
import weakref
class Thing: pass
thing = Thing()
watched = weakref.ref(thing, lambda _: 1 / 0)
print("ready", flush=True)
sys.stderr = sys.stdout
del thing
print("over")
"""
    status, lines = run(code)
    assert (status, lines[0], lines[-1]) == (0, "ready", "over")
    assert any(line.startswith("ZeroDivisionError") for line in lines)
