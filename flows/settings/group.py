"""The base class of all groups of settings, which may take fields from the options that the core declares."""

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Core = TypeVar("Core", bound=DataclassInstance)
else:
    Core = TypeVar("Core")

# Settings that name a folder, which may lie beside the file; a table on the way may be a list of tables.
FOLDERS = (
    ("model", "name"),
    ("task", "data"),
    ("distill", "teacher"),
    ("distill", "data"),
    ("study", "other"),
    ("exchange", "held_out", "data"),
)


class Group(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """A table of settings; unknown keys are refused.

    A table whose settings the core uses inherits them, with bounds, defaults and docstrings, from the core's dataclass.
    Each table repeats frozen=True, as type checkers ask of what inherits from a frozen dataclass.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Take over the docstrings of inherited dataclass fields, which pydantic reads in its own classes alone."""
        options = [kind for kind in cls.__mro__ if "__dataclass_fields__" in vars(kind)]
        found = {name: text for kind in reversed(options) for name, text in attribute_docstrings(kind).items()}
        silent = {name: field for name, field in cls.__pydantic_fields__.items() if field.description is None}
        for name in silent.keys() & found.keys():
            silent[name].description = found[name]
        if options:
            cls.model_rebuild(force=True)

    def make(self, kind: type[Core], **others: Any) -> Core:
        """Make settings of the core from the fields that they share with this table, and from others.

        Raises:
            SettingError: when they contradict one another; the table is not named yet.
        """
        shared = {field.name for field in dataclasses.fields(kind)} & type(self).model_fields.keys()
        return kind(**{name: getattr(self, name) for name in shared} | others)


def attribute_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings under the attributes of a class by the attribute's name."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(found, ast.ClassDef)
    return {
        attribute.target.id: inspect.cleandoc(below.value.value)
        for attribute, below in pairwise(found.body)
        if isinstance(attribute, ast.AnnAssign)
        and isinstance(attribute.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
