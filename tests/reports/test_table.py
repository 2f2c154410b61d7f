"""Tables: one content as CSV, Markdown and HTML, each read back by a reader that is not ours."""

import csv
import io
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.reports.table import Table, write_table
from tests.places import ROOT

# What each format would take for its own signs.
ODD = ["a,b", 'say "x"', "<b>&amp;</b>", "it's", "two\nlines", "a | b", " padded ", "ÄÖ → ±"]
SPELLINGS = ("csv.writer", "csv.DictWriter", "to_csv", "to_html", "to_markdown", "<table", "<td", "<th")


class Cells(HTMLParser):
    """Rows of cells, each with its tag, its class and its text; ids of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str | None, str]]] = []
        self.ids: list[str | None] = []
        self._in_cell = False
        self.feed(str(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.ids.append(dict(attrs)["id"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append((tag, dict(attrs).get("class"), ""))
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            tag, kind, text = self.rows[-1][-1]
            self.rows[-1][-1] = (tag, kind, text + data)


def table(num_names: int = 1) -> Table:
    return Table(["", "score", "±", "score"], [["crash", 0.1, None, 3], ["<full>", -12.5, 0.25, True]], num_names)


def test_csv_reads_back_as_it_was_given() -> None:
    rows = [[text, number, None] for number, text in enumerate(ODD)]
    text = Table(["a", "b, c", 'd "e"'], rows).csv()
    assert list(csv.reader(io.StringIO(text))) == [
        ["a", "b, c", 'd "e"'],
        *([text, str(number), ""] for number, text in enumerate(ODD)),
    ]
    assert text.count("\r") == 0


def test_csv_is_what_the_standard_library_writes() -> None:
    """All digits of a number, and columns that share a name."""
    header, rows = ["x", "x", "y"], [[0.1 + 0.2, 1e-17, None], [math.nan, -math.inf, 7], [["a"], True, ""]]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    assert Table(header, rows).csv() == stream.getvalue()
    assert Table(["a", "b"], []).csv() == "a,b\n"


def test_records_have_a_column_for_each_name_in_the_order_of_their_first_use() -> None:
    found = Table.of_records([{"b": 1, "a": 2}, {"c": math.nan, "a": None}], first=["z", "a"])
    assert found.csv() == "z,a,b,c\n,2,1,\n,,,nan\n"


def test_markdown_is_aligned_names_left_and_numbers_right() -> None:
    assert table().markdown() == "\n".join(
        [
            "|        | score |    ± | score |",
            "|--------|------:|-----:|------:|",
            "| crash  |   0.1 |      |     3 |",
            "| <full> | -12.5 | 0.25 |  True |",
        ]
    )
    assert table(2).markdown().splitlines()[1:3] == [
        "|--------|-------|-----:|------:|",
        "| crash  | 0.1   |      |     3 |",
    ]


def test_a_cell_ends_no_row_and_no_column_of_markdown() -> None:
    head, rule, *lines = Table(["a | b", "c"], [[text, "end"] for text in ODD]).markdown().splitlines()
    assert len(lines) == len(ODD)
    assert len({len(line) for line in (head, rule, *lines)}) == 1
    assert {line.replace("\\|", "").count("|") for line in (head, rule, *lines)} == {3}


@pytest.mark.parametrize("num_names", [1, 2])
def test_html_has_every_cell_as_text_and_marks_names(num_names: int) -> None:
    rows = [[text, number, None] for number, text in enumerate(ODD)]
    found = Cells(Table(["<a>", "b", "c"], rows, num_names).html('settings"'))
    assert found.ids == ['settings"']
    kinds = ["name"] * num_names + [None] * (3 - num_names)
    assert [[(tag, kind) for tag, kind, _ in row] for row in found.rows] == [
        [("th" if number == 0 else "td", kind) for kind in kinds] for number in range(len(ODD) + 1)
    ]
    assert [[text for _, _, text in row] for row in found.rows[1:]] == [
        [text, str(n), ""] for n, text in enumerate(ODD)
    ]


def test_empty_columns_of_numbers_are_left_out() -> None:
    found = Table(["a", "b", "c", "d"], [["", None, "", 0], ["", "", None, 1]], 2).without_empty_columns()
    assert (found.header, found.rows, found.num_names) == (["a", "b", "d"], [["", None, 0], ["", "", 1]], 2)
    assert Table(["a", "b"], []).without_empty_columns().header == ["a", "b"]


def test_a_figures_numbers_have_the_digits_of_float32(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ("name", "value"), [("x", 1 / 3), ("y", 12345678.9), ("z", 7), ("n", math.nan)])
    assert (tmp_path / "a.csv").read_text() == "name,value\nx,0.3333333\ny,1.234568e+07\nz,7\nn,nan\n"


def test_no_other_module_writes_a_table_by_hand() -> None:
    files = [
        path for top in ("tasks", "flows") for end in ("py", "j2", "js") for path in (ROOT / top).rglob(f"*.{end}")
    ]
    found = {
        (path.relative_to(ROOT).as_posix(), spelling)
        for path in files
        for spelling in SPELLINGS
        if spelling in path.read_text()
    }
    assert found == {
        ("tasks/reports/table.py", "to_csv"),
        *(("tasks/reports/templates/table.html.j2", tag) for tag in ("<table", "<td", "<th")),
    }
