"""Check that MLflow can record runs at an address, before anything is computed."""

import os
import sqlite3
from pathlib import Path

from tasks.core.errors import EnvironmentFault
from tasks.store.databases import sqlite_path
from tasks.tracking.mlflow_sender import check_server, refused_by_mlflow
from tasks.tracking.servers import reason, redact_url

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
BUSY = ("locked", "busy")
CHOICES = "a server (http://host:5000) or a database (sqlite:////folder/mlflow.db, postgresql://host/name)"


def check_tracking(uri: str, named: str, experiment: str) -> None:
    """Check that MLflow can record the runs of an experiment at an address.

    named: where the address was found, for the message: `place.mlflow` or `MLFLOW_TRACKING_URI`.

    Raises:
        EnvironmentFault: when no server answers there, the database cannot be written, or MLflow cannot write this kind
            of address; says what to do.
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else uri.partition(":")[0].lower() if ":" in uri else ""
    kind = scheme.partition("+")[0]
    advice = f"give {CHOICES}, or leave {named} out to track in a local file under home"
    if kind in ("http", "https"):
        check_server(uri)
    elif uri.startswith("databricks"):
        _check_databricks(uri, named, experiment, advice)
    elif kind in DATABASES:
        why = _unusable_file(uri) if kind == "sqlite" else _unusable_database(uri)
        if why:
            raise EnvironmentFault(f"{named} = {redact_url(uri)}: {why}; {advice}")
    elif kind in ("", "file"):
        _check_folder(uri, named, advice)
    elif why := refused_by_mlflow(uri):
        hint = f" (an address of a server begins with http://: http://{uri}?)" if "://" not in uri else ""
        raise EnvironmentFault(f"{named} = {redact_url(uri)}: MLflow cannot use it{hint} ({why}); {advice}")


def _check_folder(uri: str, named: str, advice: str) -> None:
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise EnvironmentFault(
            f"{named} = {uri} is a folder of files, which this release of MLflow no longer writes; {advice}"
        )
    if why := refused_by_mlflow(uri):
        raise EnvironmentFault(f"{named} = {uri}: MLflow cannot write this folder of files ({why}); {advice}")


def _check_databricks(uri: str, named: str, experiment: str, advice: str) -> None:
    if uri.startswith("databricks-uc"):
        raise EnvironmentFault(f"{named} = {uri} is a registry of models, not a place for runs; {advice}")
    if why := refused_by_mlflow(uri):
        raise EnvironmentFault(f"{named} = {uri}: Databricks does not take runs from here ({why}); {advice}")
    if not experiment.startswith("/"):
        raise EnvironmentFault(
            f"{named} = {uri}: Databricks names experiments by their path in the workspace; set place.experiment ="
            f' "/Users/you@example.org/{experiment}"'
        )


def _unusable_file(uri: str) -> str | None:
    """Return why MLflow cannot write this SQLite database; None if it can."""
    from sqlalchemy.exc import ArgumentError

    try:
        path = sqlite_path(uri)
    except ArgumentError:
        return "it is not the address of a database (sqlite:///relative.db or sqlite:////absolute.db)"
    if path is None:
        return "a database in memory is lost at the end of the run"
    if not path.exists():
        existing = next(parent for parent in path.absolute().parents if parent.exists())
        return None if existing.is_dir() and os.access(existing, os.W_OK) else f"{existing} cannot be written"
    return _unwritable(path)


def _unwritable(path: Path) -> str | None:
    try:
        # A database that another process is writing is busy, which is not an error.
        with sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=1) as database:
            database.execute("begin immediate")
            database.rollback()
        database.close()
    except sqlite3.Error as error:
        return None if any(word in str(error) for word in BUSY) else str(error)
    return None


def _unusable_database(uri: str) -> str | None:
    """Return why a database server cannot be reached; None if it can."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
    try:
        create_engine(uri).connect().close()
    except ModuleNotFoundError as error:
        return f"the Python package {error.name!r} is not installed (pip install {error.name})"
    except (SQLAlchemyError, ValueError) as error:
        return f"it cannot be reached ({reason(error)})"
    return None
