"""The table of a report, of a sweep and of a search, as files for a spreadsheet and as Markdown."""

from pathlib import Path

from tasks.artifacts.files import require_file

# One value a line; tasks side by side; the table that a run prints.
LONG_TABLE = "table.csv"
WIDE_TABLE = "table_wide.csv"
MARKDOWN_TABLE = "table.md"


def read_table(folder: Path) -> str:
    """Read the Markdown table of a report, a sweep or a search.

    Raises:
        InputError: when the file is missing.
    """
    return require_file(folder, MARKDOWN_TABLE, "table").read_text()
