"""The page of a study: in a browser it shows every picture, and the number of the cell that is pointed at."""

import base64
import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.reports.study.answers import numbers
from tasks.reports.study.cells import Analysis, Box, CellResults, DrawnFigure, Matrix
from tasks.reports.study.page import flat, markdown, page
from tasks.reports.study.sections import Section
from tasks.reports.style import boxes_of, figure, save
from tests.store.browsing import browsing

VALUES = [[0.125, 2.0, float("nan")], [1.0, -3.5, 12345.678]]
CAPTION = "Two <rows> & three columns."


def studied(label: str, value: float | None) -> CellResults:
    summary = {} if value is None else {"lowest_adjacent": value, "estimator": "linear_cka"}
    return CellResults(
        label, label, "people", {"num_blocks": 12, "precision": "float32"}, {"similarity": Analysis(Path(), summary)}
    )


def heatmap(folder: Path, name: str, origin: str) -> DrawnFigure:
    """A picture of the values, as a part of a study would draw it."""
    made, axes = figure(6.0, 4.0)
    image = axes.imshow(VALUES, origin=origin, aspect="equal")
    axes.set_title("a heatmap")
    (box,) = boxes_of([image])
    save(made, folder / f"{name}.png")
    (folder / f"{name}.csv").write_text("row,column,value\n0,0,0.125\n")
    names = {"rows": ["upper", "</script>lower"], "columns": ["a", "b", "c"]}
    matrices = {"a heatmap": Matrix(**names, values=VALUES, unit="nats", box=box)}
    return DrawnFigure(name, "A title", CAPTION, folder / f"{name}.png", folder / f"{name}.csv", matrices)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A page with two heatmaps, one of them upside down, and one picture that cannot be pointed at."""
    plain = heatmap(tmp_path, "plain", "upper")
    plain = DrawnFigure(plain.name, plain.title, plain.caption, plain.png, plain.csv, {})
    figures = [heatmap(tmp_path, "matrix", "upper"), heatmap(tmp_path, "plane", "lower"), plain]
    cells = [studied("small", 0.5), studied("large", 0.25)]
    sections = [Section("similarity", "Similarity", "What it tells.", ("similarity",), figures)]
    (tmp_path / "study.html").write_text(page(cells, numbers(cells), sections))
    return tmp_path / "study.html"


def centre(row: int, column: int, name: str) -> str:
    """Where the middle of a cell is in the window, told from the picture's own axes."""
    return (
        f"(() => {{ const picture = document.querySelector('#{name} .picture'); picture.scrollIntoView();"
        f" const [left, first, right, last] = JSON.parse(picture.querySelector('script').textContent)[0].box;"
        f" const frame = picture.getBoundingClientRect();"
        f" return [frame.left + frame.width * (left + ({column} + 0.5) / 3 * (right - left)),"
        f" frame.top + frame.height * (first + ({row} + 0.5) / 2 * (last - first))] }})()"
    )


def test_in_a_browser_every_picture_is_there_and_a_cell_tells_its_number(written: Path) -> None:
    with browsing(written) as shown:
        assert shown.ask("Array.from(document.images).map(image => image.naturalWidth > 0)") == [True] * 3
        assert shown.ask("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut at laptop width"
        told = {}
        for name in ("matrix", "plane"):
            for row, column in ((0, 0), (1, 2), (0, 2), (1, 1)):
                shown.point(*shown.ask(centre(row, column, name)))
                told[name, row, column] = shown.ask(f"document.querySelector('#{name} .value').textContent")
                assert shown.ask(f"document.querySelector('#{name} .value').hidden") is False
        shown.point(1, 1)
        hidden = shown.ask("Array.from(document.querySelectorAll('.value, .cell')).map(each => each.hidden)")
        assert hidden == [True] * 4
        assert shown.errors == []
    for name in ("matrix", "plane"):
        assert told[name, 0, 0] == "upper, a: 0.125 nats"
        assert told[name, 1, 2] == "</script>lower, c: 12350 nats"
        assert told[name, 0, 2] == "upper, c: no value"
        assert told[name, 1, 1] == "</script>lower, b: -3.5 nats"


def test_the_box_is_where_the_cells_are_drawn(tmp_path: Path) -> None:
    """The first row is at the bottom of a picture with its origin below; the colours at the boxes' corners say so."""
    from matplotlib.image import imread

    for origin in ("upper", "lower"):
        made, axes = figure(5.0, 3.0)
        image = axes.imshow([[0.0, 1.0], [1.0, 1.0]], cmap="gray", origin=origin)
        axes.set_title("moves the axes down")
        (box,) = boxes_of([image])
        save(made, tmp_path / "box.png")
        picture = imread(tmp_path / "box.png")
        corners = [shade(picture, box, *place) for place in ((0.05, 0.05), (0.45, 0.45))]
        others = [shade(picture, box, *place) for place in ((0.05, 0.95), (0.95, 0.05), (0.95, 0.95), (0.55, 0.55))]
        assert (corners, others) == ([0] * 2, [1] * 4), origin


def shade(picture: Any, box: Box, row: float, column: float) -> float:
    """Of a grey picture, at a share of the box's height and width."""
    left, first, right, last = box
    height, width = picture.shape[:2]
    return float(
        picture[int((first + row * (last - first)) * height), int((left + column * (right - left)) * width)][0]
    )


def test_everything_is_in_the_one_file(written: Path) -> None:
    text = written.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    (link,) = set(re.findall(r'download="matrix.csv" href="data:text/csv;base64,([^"]+)"', text))
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(link).decode())))
    assert rows == [{"row": "0", "column": "0", "value": "0.125"}]
    assert "Two &lt;rows&gt; &amp; three columns." in text
    assert text.count("<script") == text.count("</script>") == 3


def test_numbers_stand_side_by_side_and_what_a_cell_lacks_is_empty() -> None:
    cells = [studied("small", 0.5), studied("large", None)]
    found = numbers(cells)
    assert [(each["stage"], each["fact"], each["values"]) for each in found] == [
        ("similarity", "lowest_adjacent", {"small": 0.5})
    ]
    assert re.search(r"\| lowest similarity of neighbouring blocks \| +0.5 \| +\|", markdown(cells, found))
    assert flat(found) == {"similarity.lowest_adjacent": 0.5}
    both = numbers([studied("small", 0.5), studied("large", 0.25)])
    assert flat(both) == {"similarity.lowest_adjacent/small": 0.5, "similarity.lowest_adjacent/large": 0.25}
