"""The Python code of a task's definition: import it once, and name task, file and line when it fails."""

import re
from pathlib import Path
from typing import Any

from tasks.data.lm_eval import definitions
from tasks.data.lm_eval.seeding import draws, forget
from tasks.data.rows.reading import read_rows
from tasks.data.rows.tables import make_table
from tasks.data.sources import SPLIT_KEYS, TaskSource
from tasks.store.boundary import translated


def load_definition(source: TaskSource) -> dict[str, Any]:
    """Return the definition as lm-eval reads it, with the functions that it names.

    Raises:
        InputError: when its code cannot be imported: a package is missing, or the code itself fails.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    path = definition_of(source)
    forget(code_of(source))
    what = f"task {source.name!r}: the code of its definition {path} cannot be imported"
    with translated(what, "Install what it needs, or choose another task", code=code_of(source)):
        return load_yaml(path)


def process_examples(source: TaskSource, config: dict[str, Any]) -> None:
    """Process the rows that lm-eval's command processes before the scored rows: those of few-shot examples.

    lm-eval does so with zero shots too, and code that draws random numbers has then advanced its generators before the
    scored rows. Where the examples are the scored rows, `datasets` caches the result and nothing is drawn twice.
    """
    examples = config.get("fewshot_config") or {}
    process = examples.get("process_docs") or config["process_docs"]
    given = examples.get("split") or config.get("fewshot_split")
    if not draws(code_of(source)) or (given is None and examples.get("samples") is not None):
        return
    given = given or config.get("training_split") or config.get("validation_split")
    role = next((role for role, key in SPLIT_KEYS.items() if given is not None and config.get(key) == given), None)
    file = source.files.get(role or "")
    if file is not None and file != source.file("scored"):
        process(make_table(Path(file), read_rows(Path(file))))


def definition_of(source: TaskSource) -> Path:
    """Return the path of the YAML file that defines an lm-eval task."""
    assert source.yaml is not None
    return Path(source.yaml)


def code_of(source: TaskSource) -> list[Path]:
    """Return the paths of the Python files of a task's definition."""
    return definitions.code_files(definition_of(source))


def field_read(source: TaskSource, error: BaseException) -> str | None:
    """Return the missing field that an error names, if the definition or its code names it too (or it may be data)."""
    found = re.match(r"'(\w+)' is undefined$|'(\w+)'$", str(error))
    if found is None:
        return None
    name = found[1] or found[2]
    definition = str(definitions.merged(definition_of(source)))
    texts = [definition, *(file.read_text("utf-8", errors="replace") for file in code_of(source))]
    return name if any(re.search(rf"\b{name}\b", text) for text in texts) else None
