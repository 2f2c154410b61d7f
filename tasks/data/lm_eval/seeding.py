"""Seed the random numbers that a task's own code draws, in every stage as lm-eval's command does."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The defaults of lm_eval.simple_evaluate for Python, and for numpy and torch.
PYTHON_SEED, OTHER_SEED = 0, 1234


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the generators of Python, numpy and torch inside the block, and restore their states after it."""
    import numpy
    import torch

    # If no GPU has been used so far, leave their states alone: reading them would initialise CUDA.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    of_python, of_numpy = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(PYTHON_SEED)
            numpy.random.seed(OTHER_SEED)
            for generator in (torch.default_generator, *(torch.cuda.default_generators[number] for number in devices)):
                generator.manual_seed(OTHER_SEED)
            yield
        finally:
            random.setstate(of_python)
            numpy.random.set_state(of_numpy)


def draws(code: Iterable[Path]) -> bool:
    """Return whether code looks as if it drew random numbers."""
    return any(_draws(file) for file in code)


def forget(code: Iterable[Path]) -> None:
    """Make lm-eval import the files that draw random numbers again, so that a generator of theirs starts afresh."""
    names = {str(file.resolve()) for file in code if _draws(file)}
    # Only lm-eval's own loader stores the file's modification time on a module.
    for name, module in [*sys.modules.items()]:
        if hasattr(module, "__mtime__") and getattr(module, "__file__", None) in names:
            del sys.modules[name]


def _draws(file: Path) -> bool:
    text = file.read_text("utf-8", errors="replace")
    return "rand" in text or "shuffle" in text
