"""Main memory of this machine or of the container that this process runs in: what there is, and what is free."""

from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
KERNEL_COUNTS = Path("/proc/vmstat")
# The files of both versions of cgroups: the limit, what is used, and the statistics with the cache that can be dropped.
VERSIONS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def total_memory() -> int:
    """Return the bytes of main memory that processes here may use together: the machine's, or the container's limit."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits())])


def free_memory() -> int:
    """Return the bytes of main memory that are free now, counting what the system keeps only as a cache of files."""
    return min([psutil.virtual_memory().available, *(max(0, limit - used) for limit, used in _limits())])


def memory_of(pid: int) -> int:
    """Return the bytes that a process and its descendants use and share with no other process."""
    try:
        process = psutil.Process(pid)
        every = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    return sum(map(_own_memory, every))


def num_memory_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory, in this container or on this machine."""
    files = [folder / name for folder in _groups() for name in ("memory.events", "memory.oom_control")]
    own = [path for path in files if path.exists()]
    # Those of the group of this process alone, where they are counted: elsewhere others are killed too.
    return _statistic(own[0] if own else KERNEL_COUNTS, "oom_kill")


def _own_memory(process: psutil.Process) -> int:
    try:
        found = process.memory_info()
    except psutil.Error:
        return 0
    return int(found.rss - getattr(found, "shared", 0))


def _limits() -> Iterator[tuple[int, int]]:
    """Yield (limit, used) of the control groups of this process, from its own up to the root."""
    for folder in _groups():
        for limit_name, used_name, cache_name in VERSIONS:
            try:
                limit, used = (folder / limit_name).read_text().strip(), int((folder / used_name).read_text())
            except (OSError, ValueError):
                continue
            if limit.isdigit():
                yield int(limit), used - _statistic(folder / "memory.stat", cache_name)


def _groups() -> Iterator[Path]:
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        path = root / name.lstrip("/")
        # A container sees its own group as the root, whatever it is called outside.
        yield from (folder for folder in (path, *path.parents) if folder.is_relative_to(root))


def _statistic(path: Path, name: str) -> int:
    try:
        facts = dict(line.split() for line in path.read_text().splitlines())
        return int(facts.get(name, 0))
    except (OSError, ValueError):
        return 0
