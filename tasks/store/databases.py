"""URLs of SQLite databases, whatever characters the names of their folders contain."""

import re
from pathlib import Path

from tasks.core.errors import EnvironmentFault


def sqlite_url(path: Path, driver: str = "pysqlite") -> str:
    """Return the SQLAlchemy URL of a database in a file. driver: pysqlite, or aiosqlite for Prefect.

    Raises:
        EnvironmentFault: when SQLAlchemy parses another path from its own URL, or the path is not UTF-8.
    """
    from sqlalchemy.engine import URL, make_url

    path = path.absolute()
    try:
        url = URL.create(f"sqlite+{driver}", database=str(path)).render_as_string(hide_password=False)
        understood = make_url(url).database == str(path)
    except UnicodeError:
        understood = False
    if not understood:
        odd = sorted({character for character in str(path) if not re.match(r"[\w/.+ -]", character)})
        raise EnvironmentFault(
            f"{str(path)!r} cannot be written as the address of a database, because of"
            f" {', '.join(map(repr, odd))}; choose another folder (place.home)"
        )
    # MLflow makes the folders of a `sqlite:` URL literally, with percent signs. If the path needs no escapes, use the
    # short, common form.
    return f"sqlite://{url.partition('://')[2]}" if driver == "pysqlite" and url.endswith(f"///{path}") else url


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for a database in memory, or one that is not SQLite."""
    if not url.startswith(("sqlite:", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url

    database = make_url(url).database
    return Path(database) if database and database != ":memory:" and not database.startswith("file:") else None
