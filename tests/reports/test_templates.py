"""Templates: what is put into a page is text, what is missing is an error, and no file is without use."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from tasks.reports.table import Table
from tasks.reports.templates import FOLDER, render
from tasks.store.code_digest import TEMPLATE_SUFFIXES

SWEEP = {"title": "<1> of 'two' & \"three\"", "sections": [], "failed": ["a<b"], "again": "Again."}


def test_values_are_text_and_not_markup() -> None:
    page = render("sweep.html.j2", **SWEEP)
    assert "&lt;1&gt; of &#39;two&#39; &amp; &#34;three&#34;" in page
    assert "<li>a&lt;b</li>" in page
    assert isinstance(page, Markup), "a part of a page is not escaped again"


@pytest.mark.parametrize("name", SWEEP)
def test_a_value_that_is_missing_is_an_error(name: str) -> None:
    with pytest.raises(UndefinedError, match=f"'{name}' is undefined"):
        render("sweep.html.j2", **{each: value for each, value in SWEEP.items() if each != name})


def test_a_picture_is_inside_its_page(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    empty = Table(["a"], [])
    values = {"settings": empty, "footnote": "", "notes": [], "splits": None, "spending": empty, "spending_note": ""}
    values |= {"channels": empty, "channels_note": "", "stand_ins": None, "stand_ins_note": ""}
    page = render("run.html.j2", title="t", figures={tmp_path / "a.png": 'a "b"'}, facts={"n": None}, **values)
    assert '<img alt="a &#34;b&#34;" src="data:image/png;base64,iVBORw==">' in page
    assert "<dt>n</dt><dd>None</dd>" in page


def test_styles_and_scripts_are_inside_their_page_unescaped() -> None:
    study = render("study.html.j2", title="t", inputs=Table(["a"], []), note="n", sections=[])
    for name in ("style.css", "wide.css", "study.css", "hover.js"):
        assert (FOLDER / name).read_text() in study


def test_every_file_is_a_template_whose_change_counts() -> None:
    names = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert {name for name in names if not name.endswith(TEMPLATE_SUFFIXES)} == {"__init__.py"}
    used = "".join(path.read_text() for path in FOLDER.parent.rglob("*") if path.suffix in (".j2", ".py"))
    assert all(f'"{name}"' in used for name in names - {"__init__.py"})
