"""Addresses of MLflow: those at which no run would arrive are refused with what to do."""

import sqlite3

import pytest

from tasks.core.errors import EnvironmentFault
from tasks.store.databases import sqlite_url
from tasks.tracking.address import check_tracking
from tasks.tracking.servers import reason

NAMED = "MLFLOW_TRACKING_URI"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("./mlruns", "folder of files, which this release of MLflow no longer writes"),
        ("mlruns", "folder of files"),
        ("file:///folder/mlruns", "folder of files"),
        ("file:mlruns", "folder of files"),
        ("databricks-uc", "registry of models"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:folder/x.db", "not the address of a database"),
        ("sqlite:////dev/null/x.db", "cannot be written"),
        ("postgresql://user:word@127.0.0.1:9/name", "postgresql://127.0.0.1:9/name: "),
        ("mysql+nothing://host/name", "mysql+nothing://host/name: "),
        ("unknown://host", "MLflow cannot use it"),
        ("localhost:5000", "http://localhost:5000?"),
        ("http://127.0.0.1:9", "does not answer"),
        ("http://", "does not answer"),
    ],
)
def test_an_address_without_use_is_refused(uri, said, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(EnvironmentFault) as error:
        check_tracking(uri, NAMED, "crash")
    assert said in str(error.value)
    assert "word" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("uri", ["databricks", "databricks://profile"])
def test_databricks_without_a_login_is_refused(uri, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DATABRICKS_HOST", raising=False)
    with pytest.raises(EnvironmentFault, match=f"{NAMED} = {uri}: Databricks does not take runs"):
        check_tracking(uri, NAMED, "crash")


def test_a_database_that_can_be_written_is_taken_and_not_touched(tmp_path):
    path = tmp_path / "what?" / "mlflow.db"
    check_tracking(sqlite_url(path), NAMED, "crash")
    assert not path.parent.exists()
    path.parent.mkdir()
    busy = sqlite3.connect(path, isolation_level=None)
    busy.execute("create table t (x)")
    check_tracking(sqlite_url(path), NAMED, "crash")
    busy.execute("begin exclusive")
    check_tracking(sqlite_url(path), NAMED, "crash")
    busy.close()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("This is a text, and one that is long enough for a header." * 20)
    with pytest.raises(EnvironmentFault, match="file is not a database"):
        check_tracking(sqlite_url(path), "place.mlflow", "crash")


def test_the_reason_of_a_failure_holds_no_password_and_no_written_value():
    said = reason(ValueError("no answer of postgresql://me:word@host/x\n[SQL: insert ... ['a row']]"))
    assert said == "no answer of postgresql://host/x"
    assert reason(KeyError()) == "KeyError"
