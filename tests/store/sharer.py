"""Publish small artifacts in a store behind a URL, as a process of its own: ROOT URL LOG SEED COUNT [HOLD]."""

import os
import random
import sys
import time
from pathlib import Path

from tasks.core.errors import CrashError
from tasks.store.artifacts import Artifact, Store
from tasks.store.keys import stage_key
from tasks.store.remote.leases import LeaseTimes
from tasks.store.remote.objects import Remote
from tasks.store.remote.store import CachedRemoteStore

# As in production, only faster.
QUICK = LeaseTimes(beat=0.2, silence=1.5, look=0.05)


def key_of(seed: int) -> tuple[str, dict]:
    """Key and inputs of the artifact of a seed."""
    return stage_key("sample", "tasks.store.files", {"seed": seed}, ())


def compute(store: Store, seed: int, content: str = "", metrics: str = "") -> Artifact:
    """Publish the artifact of a seed."""
    key, inputs = key_of(seed)
    with store.publishing("sample", key) as out:
        (out / "deep").mkdir()
        (out / "deep" / "weights.safetensors").write_bytes(random.Random(seed).randbytes(20_000))
        (out / "plan.json").write_text(content or str(seed))
        (out / "metrics.jsonl").write_text(metrics or f'{{"time": {time.time()}, "step": 1, "loss": 0.5}}\n')
        return store.publish("sample", key, out, inputs, summary={"seed": seed})


def produce(store: Store, seed: int, log: Path, hold: float = 0.0) -> Artifact:
    """The artifact of a seed, computed if nobody has it: the log gets a line when that begins."""
    key, _ = key_of(seed)
    found = store.find("sample", key)
    if found is None:
        with store.lock("sample", key):
            found = store.find("sample", key)
            if found is None:
                with open(log, "a") as file:
                    file.write(f"{seed} {os.uname().nodename}\n")
                time.sleep(hold)
                found = compute(store, seed)
    return found


def main() -> int:
    root, url, log, seed, count, *hold = sys.argv[1:]
    store = CachedRemoteStore(Path(root), Remote(url), QUICK)
    chosen = random.Random(seed)
    try:
        for _ in range(int(count)):
            artifact = produce(store, chosen.randrange(int(count)), Path(log), float(hold[0]) if hold else 0.0)
            if chosen.random() < 0.3:
                assert (store.open(artifact.ref) / "plan.json").read_text() == str(artifact.ref.summary["seed"])
            print(artifact.ref.key, artifact.ref.digest)
    except CrashError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
