"""A client of the servers under measurement: real flow runs of found stages, and other requests, on command.

`python -m tests.bench.engine` reads lines `WHAT N` and answers each with a line of JSON: the seconds it took and the
CPU seconds of this process. `python -m tests.bench.engine record FILE` makes one flow run and writes down all it sends.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

TASKS_A_RUN = 20
# As many stages of a run wait for one another as side by side: a task takes the future of the fourth before it.
SIDE_BY_SIDE = 4
POOL = "gpu"


def flows(count: int) -> None:
    """Flow runs one after another, made and ended by Prefect's engine."""
    flow = _flow()
    for _ in range(count):
        flow()


def polls(count: int) -> None:
    """What a worker asks each time it looks for work."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for _ in range(count):
            body = {"work_queue_names": ["default"], "scheduled_before": datetime.now(UTC).isoformat()}
            client._client.post(f"/work_pools/{POOL}/get_scheduled_flow_runs", json=body).raise_for_status()


def heartbeats(count: int) -> None:
    """What a flow run sends every 30 s."""
    from prefect.events import emit_event

    for _ in range(count):
        resource = {"prefect.resource.id": f"prefect.flow-run.{uuid4()}", "prefect.resource.name": "simulated"}
        emit_event("prefect.flow-run.heartbeat", resource=resource)


def looks(count: int) -> None:
    """Rounds of `crash reap`."""
    from flows.service.reaper import Watch, look

    watch = Watch()
    for _ in range(count):
        look(POOL, watch, most=0)


def unfinished(count: int) -> None:
    """Runs that stay in the state Running; 0 removes them again."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    with get_client(sync_client=True) as client:
        for _ in range(count):
            made = client.create_flow_run(_named_crash())
            client.set_flow_run_state(made.id, Running(), force=True)
        if not count:
            for run in client.read_flow_runs():
                if run.state_type == "RUNNING":
                    client.delete_flow_run(run.id)


def stages(count: int) -> None:
    """What one stage run tells MLflow: begin, ten numbers, end."""
    play = _player()
    for place in range(count):
        now, key = int(1000 * time.time()), f"{uuid4().hex}-{place}"
        tags = {"stage": "tune", "stage.key": key, "cached": "true", "artifact.digest": "0" * 64}
        play({"kind": "start", "run": key, "name": "tune", "time": now, "tags": tags, "parameters": {}, "inputs": {}})
        play({"kind": "metrics", "run": key, "values": [[f"value_{i}", float(i), now, 0] for i in range(10)]})
        play({"kind": "end", "run": key, "time": now, "status": "FINISHED", "tags": {}})


def points(count: int) -> None:
    """Points of one curve, a thousand at a time."""
    play, now, thousand = _player(), int(1000 * time.time()), 1000
    for begin in range(0, count, thousand):
        values = [["train_loss", 1.0 / (1 + step), now + step, step] for step in range(begin, begin + thousand)]
        play({"kind": "metrics", "run": "", "values": values})


COMMANDS: dict[str, Callable[[int], None]] = {
    found.__name__: found for found in (flows, polls, heartbeats, looks, unfinished, stages, points)
}


def record(path: Path) -> None:
    """One flow run in a fresh process, with every request and websocket message that it sends, in their order."""
    import httpx
    from websockets.asyncio.connection import Connection

    steps: list[dict[str, str]] = []

    def note(request: Any, answer: Any) -> None:
        step = {"method": request.method, "path": request.url.raw_path.decode(), "body": request.content.decode()}
        made = re.fullmatch(r"/api/(flow_runs|flows)/", step["path"]) and answer.is_success
        steps.append(step | ({"made": answer.json()["id"]} if made else {}))

    send, async_send, socket_send = httpx.Client.send, httpx.AsyncClient.send, Connection.send

    def noted_send(self: Any, request: Any, **more: Any) -> Any:
        answer = send(self, request, **more)
        note(request, answer)
        return answer

    async def noted_async_send(self: Any, request: Any, **more: Any) -> Any:
        answer = await async_send(self, request, **more)
        note(request, answer)
        return answer

    async def noted_socket_send(self: Any, message: Any, **more: Any) -> None:
        steps.append({"method": "socket", "path": self.request.path, "body": message})
        await socket_send(self, message, **more)

    httpx.Client.send, httpx.AsyncClient.send, Connection.send = noted_send, noted_async_send, noted_socket_send  # type: ignore[method-assign,assignment]
    flows(1)
    # Logs go out in batches of two seconds.
    time.sleep(4)
    path.write_text(json.dumps(steps))


def _flow() -> Any:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.task_runners import ThreadPoolTaskRunner

    from tasks.engine.stage import Runtime, _cached_state
    from tasks.store.artifacts import Ref

    runtime = Runtime(store="/var/lib/crash/store")

    def run_stage(runtime: Runtime, label: str, **arguments: Any) -> Any:
        return _cached_state(Ref(stage="tune", key=f"{int(label):064x}", digest="0" * 64))

    found = task(name="tune", cache_policy=NO_CACHE, persist_result=False)(run_stage)

    @flow(name="simulated", task_runner=ThreadPoolTaskRunner(max_workers=64), persist_result=False)
    def simulated() -> None:
        futures: list[Any] = []
        for place in range(TASKS_A_RUN):
            named = found.with_options(task_run_name=f"tune · crash, seed {place}")
            futures.append(named.submit(runtime, str(place), before=futures[-SIDE_BY_SIDE:][:1]))
        for future in futures:
            future.result()

    return simulated


def _named_crash() -> Any:
    from prefect import flow

    return flow(name="crash")(lambda: None)


def _player() -> Callable[[dict[str, Any]], None]:
    """Sends an event of a new run's journal to MLflow."""
    import os
    from functools import partial

    from tasks.tracking.mlflow_sender import Sender

    run = uuid4().hex
    sender = Sender(os.environ["MLFLOW_TRACKING_URI"], "bench", Path.cwd(), run)
    sender.connect()
    now = int(1000 * time.time())
    begin = {"kind": "start", "run": "", "name": "simulated", "time": now, "tags": {}, "parameters": {}, "inputs": {}}
    sender.play(run, begin)
    return partial(sender.play, run)


def main() -> None:
    """Obey standard input until it ends."""
    if sys.argv[1:2] == ["record"]:
        record(Path(sys.argv[2]))
        return
    # Libraries print; only answers may go where answers are read.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        what, count = line.split()
        began, cpu = time.monotonic(), time.process_time()
        COMMANDS[what](int(count))
        took = {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    main()
