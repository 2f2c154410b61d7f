"""Names that the documentation takes from the code: the one place that says where they are.

The generators of reference pages, the examples of the pages and the tests of the documentation import from here, so
that a module that moves is renamed here and nowhere else in the documentation.
"""

from flows.cli.main import main, parser
from flows.settings.grid import make_cells
from flows.settings.kinds import AllSettings
from flows.settings.reading import read_sweep
from tasks.artifacts.files import TensorFile
from tasks.artifacts.states import read_states
from tasks.core.errors import InputError
from tasks.core.plan.layout import Plan, pool_plan
from tasks.core.plan.registry import STRATEGIES, Strategy, make_plan
from tasks.data.lm_eval_rows import Pair
from tasks.data.rows.formats import Row
from tasks.data.rows.reading import read_rows, text_rows
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.families.trial import try_config
from tasks.reports.curves import dressed, legend, style
from tasks.reports.study.cells import Analysis
from tasks.reports.study.cells import CellResults as StudyCell
from tasks.reports.study.cells import DrawnFigure as Figure
from tasks.reports.style import figure, save
from tasks.reports.table import write_table
from tasks.store.artifacts import Ref, Store

__all__ = [
    "STRATEGIES",
    "AllSettings",
    "Analysis",
    "Figure",
    "InputError",
    "Pair",
    "Plan",
    "Ref",
    "Row",
    "Store",
    "Strategy",
    "StudyCell",
    "TensorFile",
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
    "read_states",
    "read_sweep",
    "save",
    "stage",
    "style",
    "text_rows",
    "try_config",
    "write_table",
]
