"""Whole runs whose MLflow server is killed, or accepts and never answers (F6, F7)."""

import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.faults.running import Running, tunes
from tests.faults.tracking_server import TrackingServer, shown_points, shown_runs, shown_status, written_points
from tests.flows.commands import TRACKED, artifacts, crash, small_settings

pytestmark = [pytest.mark.usefixtures("one_prefect"), pytest.mark.slow_faults]
OUTAGE_SECONDS = 60
# So many that tuning still goes on when the server is back.
LONG = ("--set", "strategy=uniform", "--set", "full_tune.enabled=false", "--set", "tune.num_steps=4500")
SHORT = ("--set", "strategy=uniform", "--set", "full_tune.enabled=false", "--set", "tune.num_steps=100")


def tuning(home: Path) -> Path:
    """Metrics of the one tuning in a store."""
    (found,) = home.glob("store/artifacts/tune/*/metrics.jsonl")
    return found


def training_seconds(home: Path) -> float:
    """From the first step of the tuning to its last."""
    times = [json.loads(line)["time"] for line in tuning(home).read_text().splitlines()]
    return max(times) - min(times)


class Pair:
    """The same run twice, side by side: one to be disturbed, one not. What else the machine does slows both alike."""

    def __init__(self, folder: Path, uri: str, *options: str) -> None:
        self.homes = {name: folder / name / "home" for name in ("disturbed", "undisturbed")}
        for home in self.homes.values():
            home.parent.mkdir(parents=True)
        self.commands = {name: (str(small_settings(home.parent)), *options) for name, home in self.homes.items()}
        self.commands["undisturbed"] += TRACKED
        self.commands["disturbed"] += ("--set", f"place.mlflow={uri}")
        self.runs = {name: Running(*command) for name, command in self.commands.items()}
        self._waits: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in self.runs}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while any(run.process.poll() is None for run in self.runs.values()):
            for name, run in self.runs.items():
                self._waits[name] |= run.waits_for_a_core()
            time.sleep(0.5)

    def seconds(self, name: str) -> float:
        """From a training's first step to its last, less what its process, the busiest, waited for a free core.

        That depends on what else the machine does; a server that is away could cost waiting for it, or computing.
        """
        took = training_seconds(self.homes[name])
        # A short one is not the busiest process of its run, nor long enough to be held up.
        return took - max(self._waits[name].values())[1] if took > 30 else took

    def wait(self) -> str:
        """Both end well with the same artifacts, the disturbed training not 5 s slower; what the disturbed one said."""
        for run in self.runs.values():
            assert run.wait(800) == 0, run.output
            assert run.no_survivors(), run.survivors()
        disturbed, undisturbed = self.homes["disturbed"], self.homes["undisturbed"]
        assert artifacts(disturbed / "store") == artifacts(undisturbed / "store")
        assert not list(disturbed.glob("store/quarantine/*"))
        rise = self.seconds("disturbed") - self.seconds("undisturbed")
        print(f"training took {self.seconds('undisturbed'):.1f} s, disturbed {rise:+.1f} s")
        print({name: training_seconds(home) for name, home in self.homes.items()})
        assert rise < 5
        return self.runs["disturbed"].output

    @property
    def journal(self) -> Path:
        """What the disturbed run has to tell MLflow; the first there is."""
        return min(self.homes["disturbed"].glob("mlflow/journal/*.jsonl"), key=lambda path: path.stat().st_mtime)

    def delivered(self, journal: Path) -> bool:
        """Whether all of it has reached the server."""
        mark = journal.with_suffix(".sent")
        return mark.exists() and int(mark.read_text()) == journal.stat().st_size

    def rerun(self) -> None:
        """The same command again: nothing is computed."""
        store = self.homes["disturbed"] / "store"
        before = {name: (store / "artifacts" / name).stat().st_ino for name in artifacts(store)}
        done = crash("run", *self.commands["disturbed"])
        assert done.returncode == 0, done.stderr
        assert {name: (store / "artifacts" / name).stat().st_ino for name in artifacts(store)} == before


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    found = TrackingServer(folder)
    yield found.start()
    found.kill()


def check_shown(server: TrackingServer, pair: Pair, journal: Path) -> None:
    """Every point of the tuning is in MLflow, every run there once, and ended."""
    runs = shown_runs(server.database, journal.stem)
    assert all(len(found) == 1 for found in runs.values()), runs
    metrics = tuning(pair.homes["disturbed"])
    assert "flow" in runs
    assert shown_points(server.database, runs[metrics.parent.name][0]) == written_points(metrics)
    assert {shown_status(server.database, found[0]) for found in runs.values()} == {"FINISHED"}


@pytest.mark.nightly
@pytest.mark.timeout(1000)
def test_f6_a_server_away_for_a_minute_in_the_middle_of_tuning(tmp_path, server):
    pair = Pair(tmp_path, server.uri, *LONG)
    home = pair.homes["disturbed"]
    pair.runs["disturbed"].wait_until(lambda: tunes(home), "first step")
    time.sleep(2)
    server.kill()
    time.sleep(OUTAGE_SECONDS)
    assert not pair.delivered(pair.journal)
    server.start()
    said = pair.wait()
    assert said.count("the run goes on without it") == 1
    journal = pair.journal
    if not pair.delivered(journal):
        # It came back too late for the run's own thread: then the next run delivers.
        assert "the next run delivers" in said
        pair.rerun()
    check_shown(server, pair, journal)


def test_f6_a_server_away_for_the_rest_of_the_run(tmp_path, server):
    pair = Pair(tmp_path, server.uri, *SHORT)
    journals = pair.homes["disturbed"] / "mlflow/journal"
    # The first that is written there comes right after the check that the server is well.
    pair.runs["disturbed"].wait_until(lambda: any(journals.glob("*.jsonl")), "journal")
    server.kill()
    said = pair.wait()
    journal = pair.journal
    assert said.count("the run goes on without it") == 1, said
    assert f"the next run delivers {journal}" in said
    assert "Traceback" not in said
    assert not pair.delivered(journal)
    server.start()
    pair.rerun()
    assert pair.delivered(journal)
    check_shown(server, pair, journal)


class Silent:
    """A server that says it is well, and never answers anything else."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.unanswered: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            # Longer than this for its first bytes takes nobody on loopback.
            caller.settimeout(5)
            if caller.recv(4096).startswith(b"GET /health "):
                caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
                caller.close()
            else:
                self.unanswered.append(caller)

    def close(self) -> None:
        """Be gone, with everybody who still waits."""
        for caller in (self._socket, *self.unanswered):
            caller.close()


@pytest.mark.nightly
def test_f7_a_server_that_never_answers(tmp_path):
    silent = Silent()
    pair = Pair(tmp_path, silent.uri, *SHORT)
    said = pair.wait()
    ended = time.time()
    (report,) = pair.homes["disturbed"].glob("store/artifacts/report/*/manifest.json")
    # One request under way, one last try, ten seconds each; what else an end of a run takes is the rest.
    assert ended - report.stat().st_mtime < 45
    assert len(silent.unanswered) >= 2
    silent.close()
    assert "the run goes on without it" in said
    assert f"the next run delivers {pair.journal}" in said
    assert "Traceback" not in said
    kinds = [json.loads(line)["kind"] for line in pair.journal.read_text().splitlines()]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert not pair.delivered(pair.journal)


def test_f6_a_run_killed_while_its_server_is_away_is_delivered_and_continued(tmp_path, server):
    pair = Pair(tmp_path, server.uri, *SHORT, "--set", "tune.num_steps=400")
    home = pair.homes["disturbed"]
    pair.runs["disturbed"].wait_until(lambda: tunes(home), "first step")
    server.kill()
    assert pair.runs["disturbed"].end(signal.SIGKILL) == -signal.SIGKILL
    assert pair.runs["disturbed"].no_survivors()
    journal = pair.journal
    server.start()
    pair.runs["disturbed"] = Running(*pair.commands["disturbed"])
    pair.wait()
    assert pair.delivered(journal)
    runs = shown_runs(server.database, journal.stem)
    assert runs
    assert all(len(found) == 1 for found in runs.values())
