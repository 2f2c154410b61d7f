"""Stages that do little, for tests of what runs them."""

import json
import logging
import os
import signal
import time
from pathlib import Path

from tasks.core.errors import DivergedError, InputError
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=())
def number(work: Work, value: int, *, parents: list[Ref] | None = None, log: str = "") -> dict:
    """Write a number: the value plus those of the parents. `log` names a file that gets one line per execution."""
    total = value + sum(json.loads((work.open(ref) / "value.json").read_text()) for ref in parents or [])
    if log:
        with open(log, "a") as file:
            file.write(f"{total}\n")
    (work.out / "value.json").write_text(json.dumps(total))
    return {"total": total, "threads": work.num_threads}


@stage(packages=())
def failing(work: Work, how: str) -> dict:
    """Fail in the way that is named."""
    (work.out / "half.json").write_text("{}")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(7)
    errors = {
        "input": InputError("the input is bad"),
        "diverged": DivergedError("the loss is bad"),
        "disk": OSError(28, "No space left on device"),
        "memory": MemoryError("too large"),
        "bug": KeyError("surprise"),
    }
    raise errors[how]


@stage(packages=())
def greedy(work: Work, size: int, fits: int) -> dict:
    """Be killed unless a pass is small enough."""
    tokens = work.pass_tokens(size, "tune.max_tokens")
    if tokens > fits:
        os.kill(os.getpid(), signal.SIGKILL)
    (work.out / "tokens.json").write_text(str(tokens))
    return {"tokens": tokens}


@stage(packages=())
def slow(work: Work, seconds: float, *, polls: bool = False) -> dict:
    """Take some time; with `polls` look for a request to stop, and leave a checkpoint then."""
    # Who has asked once has promised to listen, and only then is the stage said to have begun.
    assert not (polls and work.stop_requested())
    (work.scratch / "begun").touch()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if polls and work.stop_requested():
            (work.scratch / "checkpoint").touch()
            break
        time.sleep(0.01)
    (work.out / "done.json").write_text("{}")
    return {}


@stage(packages=())
def surroundings(work: Work, *, seed: int = 0) -> dict:
    """What the process is like in which a stage computes."""
    import torch

    work.metric(1, loss=0.5)
    work.metric(2, loss=0.25)
    (work.out / "value.json").write_text(json.dumps(float(torch.rand(1))))
    return {"pid": os.getpid(), "torch_threads": torch.get_num_threads(), "device": work.device}


@stage(packages=())
def writes(work: Work, name: str) -> dict:
    """Write one file of that name."""
    (work.out / name).write_text("x")
    return {"folder": str(Path(work.out).name)}


@stage(packages=())
def talks(work: Work, *, metrics: int = 0) -> dict:
    """Say something, and report numbers slowly."""
    logging.getLogger("tasks.sample").warning("row %d is odd", 7)
    for step in range(metrics):
        work.metric(step, loss=float(step))
        time.sleep(0.3)
    (work.out / "done.json").write_text("{}")
    return {"environment": os.environ.get("CRASH_SAMPLE", "")}


@stage(packages=())
def large(work: Work, how: str) -> dict:
    """Write four megabytes, with Python or with a library that is not Python."""
    if how == "python":
        (work.out / "large.json").write_bytes(bytes(4_000_000))
    else:
        import torch
        from safetensors.torch import save_file

        save_file({"zeros": torch.zeros(1_000_000)}, work.out / "large.safetensors")
    return {}


@stage(packages=())
def stubborn(work: Work) -> dict:
    """Promise to listen for a request to stop, and then be busy with one long step."""
    work.stop_requested()
    (work.scratch / "begun").touch()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.01)
    return {}


@stage(packages=())
def together(work: Work, how: str) -> dict:
    """One of two processes fails in the way that is named, while the other one waits for it."""
    import torch

    from tasks.engine.ranks import process_group, run_ranks

    if work.rank is None:
        return run_ranks(work, (__name__, "together"), {"how": how})
    with process_group(work):
        total = torch.tensor([work.rank + 1.0])
        torch.distributed.all_reduce(total)
        # Who has asked once has promised to listen; a test asks it to stop as soon as its file is there.
        assert how != "waits for a stop" or not work.stop_requested()
        (work.scratch / f"{work.rank}.pid").write_text(str(os.getpid()))
        logging.getLogger("tasks.sample").warning("both are here")
        if how == "waits for a stop":
            while not work.stop_requested():
                time.sleep(0.01)
            return {"stopped": work.stop_signal}
        if work.rank == 1:
            _fail(how)
        elif how != "nothing":
            # As a busy process would be: deaf to all but the other one.
            torch.distributed.all_reduce(total) if how != "sleeps" else time.sleep(600)
    return {"total": float(total), "threads": torch.get_num_threads(), "device": work.device}


def _fail(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how in ("diverged", "sleeps"):
        raise DivergedError("the loss of one part is bad")
    if how == "bug":
        raise KeyError("surprise")
    if how == "exit":
        os._exit(7)


@stage(packages=())
def hashing(work: Work, text: str) -> dict:
    """The hash of a text in the process of a stage."""
    return {"hash": hash(text)}
