"""Write the reference of all settings from their models.

`python -m docs.generate.settings_reference docs/reference/settings.md` makes the part between the two markers anew.
"""

import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from docs.generate.markers import replace_between
from flows.settings.exchange import TuneSettings
from flows.settings.kinds import AllSettings, AuditSettings, EmulateSettings, SearchSettings, StudySettings
from flows.settings.run import Settings
from tasks.core.plan.registry import STRATEGIES

BEGIN, END = "<!-- settings: begin (make readme) -->", "<!-- settings: end -->"


def reference() -> str:
    """The tables that each flow reads, and for each group of settings a table: key, values, default, meaning."""
    top = [name for name, field in AllSettings.model_fields.items() if not _group(field.annotation)]
    head = "| key | values | default | meaning |\n|---|---|---|---|\n"
    parts = [flows(), head + "\n".join(map(_top_row, top)), strategies()]
    for name, field in AllSettings.model_fields.items():
        if group := _group(field.annotation):
            rows = "\n".join(_row(f"{name}.{key}", inner) for key, inner in group.model_fields.items())
            parts.append(f"**`[{name}]`** {group.__doc__}\n\n{head}{rows}")
    return "\n\n".join(parts)


def flows() -> str:
    """A line for each kind of settings: the flow that they belong to, and the tables that it reads."""
    read_by_all = [f"`[{name}]`" for name, field in Settings.model_fields.items() if _group(field.annotation)]
    common = f"- {Settings.__doc__} Its tables: {', '.join(read_by_all)}."
    more = [
        f"- {kind.__doc__}" for kind in (SearchSettings, StudySettings, EmulateSettings, AuditSettings, TuneSettings)
    ]
    return "\n".join([common, *more, f"- {AllSettings.__doc__}"])


def strategies() -> str:
    """A table of the strategies: what they choose, their own placement and sharing, their source."""
    rows = [
        f"| `{each.name}` | {each.line} | {each.placement or 'explicit'} | {each.share or 'none'} | {each.source} |"
        for each in STRATEGIES.values()
    ]
    head = "| strategy | keeps | `plan.placement` | `plan.share` | source |\n|---|---|---|---|---|\n"
    return f"{head}{chr(10).join(rows)}\n\nThe middle columns are what `auto` means."


def updated(text: str) -> str:
    """The text with the part between the two markers made anew."""
    return replace_between(text, BEGIN, END, reference())


def _top_row(name: str) -> str:
    return _row(name, AllSettings.model_fields[name])


def _group(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _row(name: str, field: Any) -> str:
    if field.is_required():
        default = "required"
    elif field.default is None or field.default is PydanticUndefined:
        default = ""
    else:
        default = f"`{_shown(field.default)}`"
    return f"| `{name}` | {_values(field.annotation)} | {default} | {field.description or ''} |"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(part) for part in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _values(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is typing.Annotated:
        return _values(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_values(part) for part in inner if part is not type(None))
    if origin is dict:
        return f"a table of {_values(inner[1])} by strategy" if inner[0] is not str else "table"
    if origin is tuple:
        return _values(inner[0]) if _group(inner[0]) else f"list of {_values(inner[0])}"
    if group := _group(annotation):
        return f"tables like `[{group.__name__.lower()}]`"
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return names.get(annotation, str(annotation))


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(updated(readme.read_text()))
