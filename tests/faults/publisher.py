"""Publish small artifacts, as a process of its own that a test can kill or starve: STORE SEED [COUNT]."""

import random
import sys
from pathlib import Path

from tasks.core.errors import CrashError
from tasks.store.artifacts import Store
from tasks.store.keys import stage_key


def publish(store: Store, seed: int, log: Path | None = None) -> str:
    """The digest of the artifact of a seed, computed if it is not there."""
    key, inputs = stage_key("sample", "tasks.store.files", {"seed": seed}, ())
    found = store.find("sample", key)
    if found is None:
        with store.lock("sample", key):
            found = store.find("sample", key)
            if found is None:
                if log:
                    with open(log, "a") as file:
                        file.write(f"{seed}\n")
                with store.publishing("sample", key) as out:
                    (out / "deep").mkdir()
                    (out / "deep" / "weights.safetensors").write_bytes(random.Random(seed).randbytes(200_000))
                    (out / "plan.json").write_text(str(seed))
                    found = store.publish("sample", key, out, inputs)
    return found.ref.digest


def main() -> int:
    root, seed, *count = sys.argv[1:]
    store = Store(Path(root))
    try:
        if count:
            order = [random.Random(seed).randrange(int(count[0])) for _ in range(int(count[0]))]
            for number in order:
                publish(store, number, store.root / "log")
        else:
            print(publish(store, int(seed)))
    except CrashError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
