"""The pages of reports as Jinja templates, with the styles and the script that they contain."""

import base64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FOLDER = Path(__file__).parent


def render(template: str, /, **values: Any) -> "Markup":
    """Return the text of a template of this folder; values that are not markup are escaped.

    Raises:
        jinja2.UndefinedError: when it uses a name that is not among the values.
    """
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals["contents"] = _contents
    made.filters["data_uri"] = _data_uri
    # NaN is not JSON: a script that reads it would stop.
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return made


def _contents(name: str) -> "Markup":
    """Return a style or script of this folder, whose braces are not Jinja's."""
    from markupsafe import Markup

    return Markup((FOLDER / name).read_text())


def _data_uri(path: Path, kind: str) -> str:
    """Return a file as an address that contains it. kind: its media type."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
