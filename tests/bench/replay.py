"""A flow run's requests without its engine: what a real run sent, sent again under new ids, many runs at a time.

Each run spreads its requests evenly over PACE seconds, so that a run offers a known load and the server, not the
client, decides when there are too many of them.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect

UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+")
PACE = 5.0
# Runs wait in line where there are too many; that wait is what is measured.
PATIENCE = 400.0


@dataclass(frozen=True)
class Recording:
    """The steps of one run, and which ids in them the server gave."""

    steps: list[dict[str, str]]
    flow: str
    flow_run: str
    begun: datetime

    @classmethod
    def read(cls, text: str) -> "Recording":
        """Of what tests.bench.engine wrote."""
        steps = json.loads(text)
        made = {step["path"]: step["made"] for step in steps if "made" in step}
        first = min(map(datetime.fromisoformat, TIME.findall(text)))
        return cls(steps, made["/api/flows/"], made["/api/flow_runs/"], first)

    def copy(self) -> list[dict[str, str]]:
        """The same steps of another run, as if they were taken now; the run's own id comes from the server later."""
        fresh = {self.flow: self.flow, self.flow_run: self.flow_run}
        later = datetime.now(UTC).replace(tzinfo=None) - self.begun

        def renamed(found: re.Match[str]) -> str:
            # The front half is kept: it is a time, by which the database sorts its index.
            return fresh.setdefault(found[0], found[0][:15] + str(uuid4())[15:])

        def moved(found: re.Match[str]) -> str:
            return _moved(found[0], later)

        steps = [{name: UUID.sub(renamed, text) for name, text in step.items()} for step in self.steps]
        return [{**step, "body": TIME.sub(moved, step["body"])} for step in steps]


def _moved(text: str, later: timedelta) -> str:
    return (datetime.fromisoformat(text) + later).isoformat(timespec="microseconds")


@dataclass
class Load:
    """What runs at a time met with. latencies: seconds of each change of a flow run's state.

    sent_seconds: until the last run had said everything. recorded_seconds: until all of it was in the database.
    """

    num_runs: int
    latencies: list[float] = field(default_factory=list)
    sent_seconds: float = 0.0
    recorded_seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """Of the latencies, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def replay(recording: Recording, server: str, num_runs: int, recorded: Callable[[], bool]) -> Load:
    """Send that many runs at once, and wait until the server has recorded all of it.

    server: address without /api. recorded: whether everything is in the database.
    """
    load, copies = Load(num_runs), [recording.copy() for _ in range(num_runs)]
    began = time.monotonic()
    asyncio.run(_send_all(recording, server, copies, load))
    load.sent_seconds = time.monotonic() - began
    while not recorded():
        assert time.monotonic() < began + PATIENCE, "the server did not record all task runs"
        time.sleep(0.05)
    load.recorded_seconds = time.monotonic() - began
    return load


async def _send_all(recording: Recording, server: str, copies: list[list[dict[str, str]]], load: Load) -> None:
    limits = httpx.Limits(max_connections=len(copies), max_keepalive_connections=len(copies))
    async with httpx.AsyncClient(base_url=server, timeout=PATIENCE, limits=limits) as client:
        between = PACE / len(recording.steps)

        async def late(place: int, steps: list[dict[str, str]]) -> None:
            # Not all in the same millisecond.
            await asyncio.sleep(between * place / len(copies))
            await _Run(recording, client, load).send(steps, between)

        await asyncio.gather(*(late(place, steps) for place, steps in enumerate(copies)))


class _Run:
    """One run on its way."""

    def __init__(self, recording: Recording, client: httpx.AsyncClient, load: Load) -> None:
        self._recorded, self._client, self._load = recording.flow_run, client, load
        self._own = recording.flow_run
        self._socket: ClientConnection | None = None

    async def send(self, steps: list[dict[str, str]], between: float) -> None:
        """All steps, one every `between` seconds; a late one is not waited for twice."""
        began = time.monotonic()
        try:
            for place, step in enumerate(steps):
                await asyncio.sleep(max(0.0, began + place * between - time.monotonic()))
                path, body = (step[name].replace(self._recorded, self._own) for name in ("path", "body"))
                if step["method"] == "socket":
                    await self._tell(path, body)
                else:
                    await self._ask(step["method"], path, body)
        finally:
            if self._socket is not None:
                await self._socket.close()

    async def _ask(self, method: str, path: str, body: str) -> None:
        began = time.monotonic()
        answer = await self._client.request(method, path, content=body, headers={"Content-Type": "application/json"})
        if path.endswith("/set_state"):
            answer.raise_for_status()
            self._load.latencies.append(time.monotonic() - began)
        if path == "/api/flow_runs/":
            self._own = answer.raise_for_status().json()["id"]

    async def _tell(self, path: str, body: str) -> None:
        if self._socket is None:
            address = str(self._client.base_url).replace("http", "ws", 1).rstrip("/") + path
            self._socket = await connect(address, subprotocols=["prefect"], open_timeout=PATIENCE)  # type: ignore[list-item]
        await self._socket.send(body)
        if '"auth"' in body:
            await self._socket.recv()
