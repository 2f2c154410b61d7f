"""`crash runs` and `crash gc`: list runs, and remove artifacts that no recent run refers to."""

import os
from collections.abc import Iterator
from pathlib import Path

from tasks.exchange.leftovers import collect_exchange
from tasks.exchange.place import ExchangePlace
from tasks.store.gc import Removed, collect, list_runs
from tasks.store.remote.gc import collect_remote
from tasks.store.remote.store import CachedRemoteStore, open_store

# The most that the server returns at once.
PAGE = 200


def print_runs(root: Path, url: str | None, keys: bool) -> int:
    """List runs, newest first, with their state in the store and in Prefect, their ids, and on request stage keys."""
    runs = list_runs(open_store(root, url)) if url or root.is_dir() else []
    if not runs:
        print(f"no runs in {url or root}")
        return 0
    states = prefect_states([run.run_id for run in runs])
    print(f"{'started':<17} {'state':<12} {'in Prefect':<13} {'computed':>8} {'found':>6}  name")
    for run in runs:
        used, computed = len(run.refs), run.computed or 0
        state = f"{run.state:<12} {states.get(run.run_id, '-'):<13}"
        print(f"{run.started[:16]:<17} {state} {computed:>8} {max(0, used - computed):>6}  {run.name}")
        print(f"{'':<17} run {run.run_id}" + (f"  mlflow {run.mlflow_run_id}" if run.mlflow_run_id else ""))
        for stage, key in run.refs if keys else ():
            print(f"{'':<17} {stage:<10} {key}")
    return 0


def prefect_states(run_ids: list[str]) -> dict[str, str]:
    """Return the runs' states on the configured Prefect server; empty without one, partial if it stops answering."""
    import httpx

    url = os.environ.get("PREFECT_API_URL")
    login = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    found: dict[str, str] = {}
    for begin in range(0, len(run_ids) if url else 0, PAGE):
        body = {"flow_runs": {"id": {"any_": run_ids[begin : begin + PAGE]}}, "limit": PAGE}
        auth = (login[0], login[2]) if login[0] else None
        try:
            answer = httpx.post(f"{url}/flow_runs/filter", json=body, auth=auth, timeout=10).raise_for_status()
        except httpx.HTTPError as error:
            print(f"Prefect at {url} does not answer ({type(error).__name__}); its states are not shown")
            return found
        found |= {run["id"]: run["state_name"] for run in answer.json()}
    return found


def print_collected(root: Path, url: str | None, home: Path, days: float, dry_run: bool) -> int:
    """Remove, or with `dry_run` only list, what no run of the last `days` days refers to."""
    place, removed = ExchangePlace.of_home(home), []
    if not (url or root.is_dir() or place.root.is_dir()):
        print(f"no store at {root}")
        return 0
    for item in _collected(root, url, place, days, dry_run):
        print(f"{item.num_bytes / 2**20:9.1f} MiB  {item.what}")
        removed.append(item)
    total = sum(item.num_bytes for item in removed) / 2**20
    print(f"{'would remove' if dry_run else 'removed'} {len(removed)} item(s), {total:.1f} MiB")
    return 0


def _collected(root: Path, url: str | None, place: ExchangePlace, days: float, dry_run: bool) -> Iterator[Removed]:
    """Yield what was removed from the store, then from the exchange, whose ledger may be unusable."""
    if url or root.is_dir():
        store = open_store(root, url)
        yield from collect(store, days, dry_run)
        if isinstance(store, CachedRemoteStore):
            yield from collect_remote(store, days, dry_run)
    yield from collect_exchange(place, days, dry_run)
