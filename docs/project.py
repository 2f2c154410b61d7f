"""What the documentation uses of the code: the one place that says where it is.

The generators of reference pages, the examples of the pages and the tests of the documentation import from here, so
that a module that moves is renamed here and nowhere else in the documentation.
"""

from flows.cli import main, parser
from flows.grid import make_cells
from flows.reading import read_sweep
from flows.settings import Settings
from tasks.core.errors import InputError
from tasks.core.plan import Plan, pool_plan
from tasks.core.strategies import STRATEGIES, Strategy, make_plan
from tasks.store.artifacts import Ref, Store
from tasks.store.curves import dressed, legend, style
from tasks.store.drawing import figure, save
from tasks.store.family_trial import try_config
from tasks.store.harness import Pair
from tasks.store.heatmaps import write_table
from tasks.store.row_readers import Row
from tasks.store.rows import read_rows, text_rows
from tasks.store.stage import stage
from tasks.store.studied import Analysis
from tasks.store.studied import Drawn as Figure
from tasks.store.studied import Studied as StudyCell
from tasks.store.work import Work

__all__ = [
    "STRATEGIES",
    "Analysis",
    "Figure",
    "InputError",
    "Pair",
    "Plan",
    "Ref",
    "Row",
    "Settings",
    "Store",
    "Strategy",
    "StudyCell",
    "Work",
    "dressed",
    "figure",
    "legend",
    "main",
    "make_cells",
    "make_plan",
    "parser",
    "pool_plan",
    "read_rows",
    "read_sweep",
    "save",
    "stage",
    "style",
    "text_rows",
    "try_config",
    "write_table",
]
