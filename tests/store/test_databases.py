"""Addresses of SQLite databases in folders with any name: the file lies where it belongs, and nothing beside it."""

import asyncio
import shlex
import sqlite3

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from tasks.core.errors import EnvironmentFault
from tasks.store.databases import sqlite_path, sqlite_url

NAMES = [
    "plain",
    "feature%2Fname",
    "what?",
    "100%",
    "a#b",
    "with space",
    "grün",
    'it\'s "q"',
    "a@b:c",
    "a;b&c=d",
    "a+b",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("driver", ["pysqlite", "aiosqlite"])
def test_the_file_lies_where_it_belongs(tmp_path, name, driver):
    path = tmp_path / name / "some.db"
    path.parent.mkdir()
    url = sqlite_url(path, driver)

    async def with_aiosqlite() -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.execute(sqlalchemy.text("create table t (x)"))
        await engine.dispose()

    if driver == "aiosqlite":
        asyncio.run(with_aiosqlite())
    else:
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("create table t (x)"))
        engine.dispose()
    found = sqlite3.connect(path)
    assert found.execute("select name from sqlite_master").fetchall() == [("t",)]
    found.close()
    assert [each.name for each in tmp_path.rglob("*")] == [name, "some.db"]
    assert sqlite_path(url) == path
    assert shlex.split(shlex.quote(url)) == [url]


@pytest.mark.parametrize("name", NAMES)
def test_mlflow_makes_no_folder_beside(tmp_path, name):
    from mlflow.store.db.utils import _make_parent_dirs_if_sqlite

    url = sqlite_url(tmp_path / name / "mlflow.db")
    _make_parent_dirs_if_sqlite(url)
    assert [each.name for each in tmp_path.iterdir()] in ([], [name])


def test_a_plain_path_is_written_as_everybody_writes_it(tmp_path):
    assert sqlite_url(tmp_path / "x.db") == f"sqlite:///{tmp_path}/x.db"


def test_a_path_that_no_url_can_hold_is_refused(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"because of .*udcff"):
        sqlite_url(tmp_path / "bytes\udcff" / "x.db")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "postgresql://host/name", "http://host"])
def test_what_is_no_file_has_no_path(url):
    assert sqlite_path(url) is None
