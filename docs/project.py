"""What the documentation uses of the code: the one place that says where it is.

The generators of reference pages, the examples of the pages and the tests of the documentation import from here, so
that a module that moves is renamed here and nowhere else in the documentation.
"""

from flows.cli import main, parser
from flows.grid import make_cells
from flows.reading import read_settings, read_sweep
from flows.settings import Settings
from tasks.core.errors import CrashError, InputError
from tasks.core.strategies import STRATEGIES, Strategy, make_plan

__all__ = [
    "STRATEGIES",
    "CrashError",
    "InputError",
    "Settings",
    "Strategy",
    "main",
    "make_cells",
    "make_plan",
    "parser",
    "read_settings",
    "read_sweep",
]
