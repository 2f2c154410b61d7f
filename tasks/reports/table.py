"""Tables of reports as CSV, Markdown and HTML."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.reports.templates import render

if TYPE_CHECKING:
    from markupsafe import Markup
    from pandas import DataFrame


class Table:
    """A table with a header, whose first `num_names` columns hold names and the others numbers.

    frame: the cells as they were given; None is an empty cell.
    """

    def __init__(self, header: Sequence[str], rows: Iterable[Sequence[Any]], num_names: int = 1) -> None:
        # A process that only reads notes or units from this package does without pandas, which takes long to load.
        import pandas

        self.frame = pandas.DataFrame([list(row) for row in rows], columns=list(header), dtype=object)
        self.num_names = num_names

    @classmethod
    def of_records(cls, records: Sequence[Mapping[str, Any]], first: Iterable[str] = ()) -> "Table":
        """Return a table with a column for each name that occurs in the records, those of `first` on the left."""
        names = list(dict.fromkeys([*first, *(name for record in records for name in record)]))
        return cls(names, [[record.get(name) for name in names] for record in records])

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        return list(self.frame.columns)

    @property
    def rows(self) -> list[list[Any]]:
        """Cells as they were given, row by row."""
        return self.frame.to_numpy().tolist()

    def without_empty_columns(self) -> "Table":
        """Return the table without columns of numbers that are empty; a table without rows stays whole."""
        is_filled = self._texts().ne("").any() if len(self.frame) else [True] * len(self.header)
        kept = [place < self.num_names or filled for place, filled in enumerate(is_filled)]
        frame = self.frame.loc[:, kept]
        return Table(list(frame.columns), frame.to_numpy().tolist(), self.num_names)

    def csv(self) -> str:
        """Return header and rows as CSV; numbers have all their digits."""
        return self._texts().to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        """Return the lines of a Markdown table, aligned so that it can be read as plain text too."""
        lines = [[_in_markdown(cell) for cell in row] for row in [self.header, *self._text_rows()]]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rule = [
            "-" * (width + 2) if place < self.num_names else "-" * (width + 1) + ":"
            for place, width in enumerate(widths)
        ]
        head, *body = ["| " + " | ".join(self._aligned(row, widths)) + " |" for row in lines]
        return "\n".join([head, "|" + "|".join(rule) + "|", *body])

    def html(self, name: str) -> "Markup":
        """Return an element that scrolls where the table is too wide. name: id of the table in its page."""
        values = {"header": self.header, "rows": self._text_rows(), "num_names": self.num_names}
        return render("table.html.j2", name=name, **values)

    def _texts(self) -> "DataFrame":
        return self.frame.map(lambda cell: "" if cell is None else str(cell))

    def _text_rows(self) -> list[list[str]]:
        return self._texts().to_numpy().tolist()

    def _aligned(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        cells = enumerate(zip(row, widths, strict=True))
        return [cell.ljust(width) if place < self.num_names else cell.rjust(width) for place, (cell, width) in cells]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file; numbers have as many digits as in float32."""
    shown = [[f"{cell:.7g}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    path.write_text(Table(header, shown).csv())


def _in_markdown(cell: str) -> str:
    """Escape what would end a cell or a row."""
    return " ".join(cell.splitlines()).replace("|", "\\|")
