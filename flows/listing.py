"""`crash runs` and `crash gc`: what was run and what the store holds for it."""

from pathlib import Path

from tasks.store.fronted import FrontedStore, open_store
from tasks.store.gc import collect, list_runs
from tasks.store.remote_gc import collect_remote


def print_runs(root: Path, url: str | None, keys: bool) -> int:
    """List runs, newest first, with their state, and on request the keys of their stages."""
    runs = list_runs(open_store(root, url)) if url or root.is_dir() else []
    if not runs:
        print(f"no runs in {url or root}")
        return 0
    print(f"{'started':<17} {'state':<12} {'computed':>8} {'cached':>6}  run       name")
    for run in runs:
        used = len(run.refs)
        computed = run.computed or 0
        print(
            f"{run.started[:16]:<17} {run.state:<12} {computed:>8} {used - computed:>6}  {run.run_id[:8]}  {run.name}"
        )
        if run.mlflow_run_id:
            print(f"{'':<47}  mlflow {run.mlflow_run_id}")
        for stage, key in run.refs if keys else ():
            print(f"{'':<47}  {stage:<10} {key[:16]}")
    return 0


def print_collected(root: Path, url: str | None, days: float, dry_run: bool) -> int:
    """Remove, or only list, what no run of the last days refers to."""
    if not (url or root.is_dir()):
        print(f"no store at {root}")
        return 0
    store = open_store(root, url)
    removed = collect(store, days, dry_run)
    if isinstance(store, FrontedStore):
        removed += collect_remote(store, days, dry_run)
    for item in removed:
        print(f"{item.num_bytes / 2**20:9.1f} MiB  {item.what}")
    total = sum(item.num_bytes for item in removed) / 2**20
    print(f"{'would remove' if dry_run else 'removed'} {len(removed)} item(s), {total:.1f} MiB")
    return 0
