"""The table that `make bench` prints at its end."""

from collections.abc import Callable

import pytest

ROWS = pytest.StashKey[list[tuple[str, str, str]]]()


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """Add a line: what was measured, the value, the bound that it must keep."""
    rows = request.config.stash.setdefault(ROWS, [])
    return lambda what, value, bound: rows.append((what, value, bound))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, whatever passed or failed."""
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    lines = [("measured", "value", "bound"), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(3)]
    terminalreporter.section("measurements")
    for line in lines:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
