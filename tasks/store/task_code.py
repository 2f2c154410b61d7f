"""The Python code of a task's definition: imported once, its failures named by task, file and line."""

import re
from pathlib import Path
from typing import Any

from tasks.store import task_files
from tasks.store.boundary import translated
from tasks.store.task_sources import TaskSource
from tasks.store.user_text import read_user_text


def load_definition(source: TaskSource) -> dict[str, Any]:
    """The definition as lm-eval reads it, with the functions that it names.

    Raises:
        InputError: where its code cannot be imported: a package is missing, or the code itself fails.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    path = definition_of(source)
    what = f"task {source.name!r}: the code of its definition {path} cannot be imported"
    with translated(what, "Install what it needs, or choose another task", code=code_of(source)):
        return load_yaml(path)


def definition_of(source: TaskSource) -> Path:
    """The YAML file that defines an lm-eval task."""
    assert source.yaml is not None
    return Path(source.yaml)


def code_of(source: TaskSource) -> list[Path]:
    """The Python files of a task's definition."""
    return task_files.code_files(definition_of(source))


def field_read(source: TaskSource, error: BaseException) -> str | None:
    """The field that the error misses, if it is one that the definition or its code names (else it may be data)."""
    found = re.match(r"'(\w+)' is undefined$|'(\w+)'$", str(error))
    if found is None:
        return None
    name = found[1] or found[2]
    definition = str(task_files.merged(definition_of(source)))
    texts = [definition, *(read_user_text(file) for file in code_of(source))]
    return name if any(re.search(rf"\b{name}\b", text) for text in texts) else None
