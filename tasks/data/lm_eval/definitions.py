"""lm-eval's task definitions as files: find them by name, merge them with their includes, list their code.

Nothing here imports lm-eval: the import would cost a cached run seconds.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.core.errors import EnvironmentFault, InputError
from tasks.data.templates import lm_eval_name
from tasks.models.user_text import read_user_bytes, read_user_text
from tasks.store.boundary import translated

NAME = re.compile(rb"""^["']?(task|group)["']?:[ \t]*["']?([^\s"'#]+)["']?[ \t]*(?:#.*)?\r?$""", re.MULTILINE)
SKIPPED = {"__pycache__", ".ipynb_checkpoints"}
# The keys of generation_kwargs for the most tokens that a model generates, and lm-eval's default.
WRITTEN = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
MAX_WRITTEN = 256


def stock_folder() -> Path:
    """Return the folder of the task definitions that come with lm-eval."""
    found = find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise EnvironmentFault("lm-eval is not installed: pip install 'lm-eval[hf]'")
    return Path(found.submodule_search_locations[0]) / "tasks"


def find_definition(name: str, own_folder: Path | None = None) -> Path:
    """Return the YAML file that defines task `name`: a path, a file in the user's own folder, or a stock definition.

    Raises:
        InputError: when the name is unknown (with similar names), is a group of tasks, or is defined by Python code.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise InputError(f"task.name = {name!r}: there is no such file")
        return Path(name).resolve()
    own = dict(_definitions(own_folder.glob("*.y*ml"))) if own_folder and own_folder.is_dir() else {}
    found = own.get(name) or _stock_by_file_name(name) or _stock().get(name)
    if found is None:
        for path in own_folder.glob("*.y*ml") if own_folder else []:
            read_user_text(path)  # refuses a file in another encoding, in which no name was found
        raise _unknown(name, [*own, *_stock()])
    if b"\nclass:" in b"\n" + read_user_bytes(found):
        raise InputError(f"task {name!r} is defined by Python code; only tasks defined by YAML can be trained on")
    return found.resolve()


def merged(path: Path) -> dict[str, Any]:
    """Return the definition merged with all that it includes; functions stay text (`!function module.name`)."""
    return _merged(path.resolve(), ())


def takes_validation(config: Mapping[str, Any]) -> bool:
    """Return whether few-shot examples are rows of the validation split. config: a definition."""
    given = (config.get("fewshot_config") or {}).get("split") or config.get("fewshot_split")
    return given is not None and given == config.get("validation_split") != config.get("training_split")


def most_written(named: Mapping[str, Any]) -> int:
    """Return the most tokens that a model writes. named: a definition's generation_kwargs."""
    return next((int(named[name]) for name in WRITTEN if named.get(name) is not None), MAX_WRITTEN)


def code_files(path: Path) -> list[Path]:
    """List the Python files beside the definition and its includes, for each of them that calls functions."""
    folders = {part.parent for part in _chain(path.resolve(), ()) if b"!function" in part.read_bytes()}
    return sorted(file for folder in folders for file in folder.glob("*.py"))


def _unknown(name: str, known: list[str]) -> InputError:
    if theirs := lm_eval_name(name):
        return InputError(f"unknown task {name!r}: here it is {theirs}")
    groups = _groups()
    if name in groups:
        return InputError(f"task {name!r} is a group of tasks: choose one of them")
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.6)
    advice = f"did you mean {', '.join(close)}?" if close else "`lm-eval ls tasks` lists them"
    return InputError(
        f"unknown task {name!r}: {advice} A task of your own needs a YAML file with `task: {name}` in the folder that"
        " task.data names"
    )


def _stock_by_file_name(name: str) -> Path | None:
    """Find the usual case without reading thousands of files: `arc_easy` in `arc/arc_easy.yaml`."""
    parts = name.split("_")
    for length in range(len(parts), 0, -1):
        folder = stock_folder() / "_".join(parts[:length])
        if folder.is_dir():
            for path in sorted(folder.rglob(f"{name}.yaml")):
                if dict(_definitions([path])).get(name):
                    return path
    return None


@cache
def _stock() -> dict[str, Path]:
    return dict(reversed(list(_definitions(_yaml_files(stock_folder())))))


@cache
def _groups() -> set[str]:
    names: set[str] = set()
    for path in _yaml_files(stock_folder()):
        text = read_user_bytes(path)
        names |= {match[2].decode() for match in NAME.finditer(text) if match[1] == b"group"}
        if b"\ntag:" in b"\n" + text:
            tags = merged(path).get("tag") or []
            names |= {tags} if isinstance(tags, str) else set(tags)
    return names


def _yaml_files(folder: Path) -> list[Path]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found += [Path(root) / file for file in files if file.endswith(".yaml")]
    return sorted(found, key=Path.as_posix)


def _definitions(paths: Any) -> Iterator[tuple[str, Path]]:
    for path in sorted(paths):
        names = {match[1]: match[2].decode(errors="replace") for match in NAME.finditer(read_user_bytes(path))}
        # A group lists its tasks under `task:` too.
        if b"task" in names and b"group" not in names:
            yield names[b"task"], path


def _chain(path: Path, seen: tuple[Path, ...]) -> list[Path]:
    if path in seen:
        raise InputError(f"{path} includes itself")
    parts = [path]
    for name in _names_included(path, _load(path).get("include")):
        parts += _chain(_included(path, name), (*seen, path))
    return parts


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise InputError(f"{path} includes itself")
    own = _load(path)
    result: dict[str, Any] = {}
    for name in _names_included(path, own.pop("include", None)):
        result |= _merged(_included(path, name), (*seen, path))
    return result | own


def _names_included(path: Path, include: Any) -> list[str]:
    names = [include] if isinstance(include, str) else include or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: `include` is neither the name of a file nor a list of names")
    return names


def _included(path: Path, name: str) -> Path:
    target = (path.parent / name).resolve()
    if not target.is_file():
        raise InputError(f"{path} includes {name}, which does not exist")
    return target


def _load(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
        """Load plain YAML, with references to functions kept as text."""

    Loader.add_constructor("!function", lambda loader, node: f"!function {loader.construct_scalar(node)}")
    text = read_user_text(path)
    try:
        # For a date that does not exist, Python's date class raises ValueError.
        with translated(f"{path} is not valid YAML"):
            config = yaml.load(text, Loader)
    except InputError as error:
        if (mark := getattr(error.__cause__, "problem_mark", None)) is None:
            raise
        raise InputError(f"{path} is not valid YAML (line {mark.line + 1})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} defines no task: expected `task:`, `doc_to_text:` and so on")
    return config
