"""The script that makes the two databases, run as the PostgreSQL image does at its first start."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pg8000.native
import pytest

from tasks.store.loopback import free_port
from tests.infra.dockerfiles import ROOT

SCRIPT = ROOT / "infra" / "kubernetes" / "postgres" / "databases.sh"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORDS = {"PREFECT_DB_PASSWORD": "it's $quoted", "MLFLOW_DB_PASSWORD": 'with "both" \\ kinds'}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a PostgreSQL on which the script has run."""
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    # Not in pytest's folders: those are closed to other users.
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        if user:
            shutil.chown(folder, user)
        environment = os.environ | PASSWORDS | {"PGHOST": name, "PGPORT": str(port), "POSTGRES_USER": "postgres"}

        def run(*command: str | Path) -> None:
            subprocess.run(command, user=user, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        ways = ("--auth-local=trust", "--auth-host=scram-sha-256")
        run(BINARIES[-1] / "initdb", "--pgdata", folder / "data", "--username=postgres", *ways)
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        control = (BINARIES[-1] / "pg_ctl", "--pgdata", folder / "data")
        run(*control, "--wait", "--log", folder / "log", "-o", options, "start")
        try:
            run("sh", SCRIPT)
            yield port
        finally:
            run(*control, "--mode=immediate", "stop")


def connect(port: int, user: str, database: str, password: str) -> pg8000.native.Connection:
    return pg8000.native.Connection(user, host="127.0.0.1", port=port, database=database, password=password)


@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_each_server_owns_its_database_and_reaches_no_other(port: int, name: str) -> None:
    password = PASSWORDS[f"{name.upper()}_DB_PASSWORD"]
    with connect(port, name, name, password) as connection:
        connection.run("CREATE EXTENSION IF NOT EXISTS pg_trgm")  # as Prefect's migrations do
        connection.run("CREATE TABLE own (id int)")
    other = {"prefect": "mlflow", "mlflow": "prefect"}[name]
    for database, given in ((other, password), (name, "wrong")):
        with pytest.raises(pg8000.native.DatabaseError):
            connect(port, name, database, given)
