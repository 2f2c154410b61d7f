"""The modules of all stages, without importing them."""

import ast
from pathlib import Path

import tasks


def stage_modules() -> list[str]:
    """Names of the modules that define a stage."""
    root = Path(tasks.__path__[0])
    return [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in _files(root) if _has_stage(path)]


def _files(root: Path) -> list[Path]:
    return sorted([*root.glob("*.py"), *root.glob("study/*.py")])


def _has_stage(path: Path) -> bool:
    functions = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    decorators = (each for function in functions for each in function.decorator_list)
    return any(isinstance(each, ast.Call) and getattr(each.func, "id", "") == "stage" for each in decorators)
