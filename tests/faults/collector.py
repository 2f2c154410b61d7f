"""Remove the artifact of a seed as too old, as a process of its own that a test can kill: STORE."""

import os
import sys
import time
from pathlib import Path

from tasks.store.artifacts import Store
from tasks.store.gc import collect


def main() -> int:
    store = Store(Path(sys.argv[1]))
    long_ago = time.time() - 40 * 86_400
    for folder in store.root.glob("artifacts/*/*"):
        os.utime(folder, (long_ago, long_ago))
    print(len(collect(store, days=30)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
