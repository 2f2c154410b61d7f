"""The random numbers that a task's own code draws: begun as lm-eval's command begins them, in every stage."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# The defaults of lm_eval.simple_evaluate for Python, and for numpy and torch.
PYTHON_SEED, OTHER_SEED = 0, 1234


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the generators of Python, numpy and torch for the time of the block; afterwards they go on as before it."""
    import numpy
    import torch

    # Where no GPU was used so far, no state of one is touched: asking for it would start CUDA.
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
    """Whether code looks as if it drew random numbers."""
    return any(_draws(file) for file in code)


def forget(code: Iterable[Path]) -> None:
    """Let lm-eval import the files that draw random numbers anew: a generator of their own begins where it did."""
    names = {str(file.resolve()) for file in code if _draws(file)}
    # Only lm-eval's own loader leaves the time of the file on a module.
    for name, module in [*sys.modules.items()]:
        if hasattr(module, "__mtime__") and getattr(module, "__file__", None) in names:
            del sys.modules[name]


def _draws(file: Path) -> bool:
    text = file.read_text("utf-8", errors="replace")
    return "rand" in text or "shuffle" in text
