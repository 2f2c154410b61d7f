"""Start the MLflow server with basic authentication: `python mlflow_server.py [options of mlflow server]`.

MLflow takes the address of its user table from a file only, and that address holds the database's password: the file
is made when the server starts, readable by its user alone, and no image or mounted file holds a secret.
"""

import configparser
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

NEEDED = {
    "MLFLOW_BACKEND_STORE_URI": "database of runs and users, postgresql+pg8000://user:password@host/mlflow",
    "MLFLOW_AUTH_ADMIN_USERNAME": "user that is made at the first start and may do everything",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "the user's password, at least 12 characters",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "any long random text, the same at every start",
}


def main() -> None:
    """Become `mlflow server`; exit 2 if the environment lacks something."""
    lacking = [f"{name} ({meaning})" for name, meaning in NEEDED.items() if not os.environ.get(name)]
    if lacking:
        print("mlflow_server: set " + "; ".join(lacking), file=sys.stderr)
        sys.exit(2)
    folder = Path(tempfile.mkdtemp(prefix="mlflow-auth-"))
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(write_auth_file(folder / "auth.ini", os.environ))
    command = ["mlflow", "server", "--app-name", "basic-auth", *sys.argv[1:]]
    os.execvp(command[0], command)


def write_auth_file(path: Path, environment: Mapping[str, str]) -> Path:
    """The file that MLflow's basic-auth app reads; users other than the admin may read every experiment."""
    config = configparser.ConfigParser()
    config["mlflow"] = {
        "default_permission": "READ",
        # MLflow reads the file with interpolation: a percent sign, as in an escaped password, is written twice.
        "database_uri": environment["MLFLOW_BACKEND_STORE_URI"].replace("%", "%%"),
    }
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        config.write(file)
    return path


if __name__ == "__main__":
    main()
