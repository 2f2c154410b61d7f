"""Asks every address of both servers, without and with the password. Run inside a network of its own:

python closed_probe.py HOME ADDRESS
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx

BIN = Path(sys.executable).parent
# What a load balancer or a browser must get before anybody has logged in; none of it tells anything.
OPEN_IN_PREFECT = {"/api/health", "/api/ready"}
# MLflow asks for no password here: which kind of store it has, and nothing of what is in it.
OPEN_IN_MLFLOW = {"/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info"}
NOTHING = "00000000-0000-0000-0000-000000000000"
# Prefect builds the description of its calls at the first request: beside other tests longer than httpx waits.
SECONDS = 60


def main(home: Path, address: str) -> None:
    """Start the servers, ask, print what was found as JSON."""
    command = [str(BIN / "crash"), "up", "--home", str(home), "--host", "0.0.0.0", "--auth", "--limit", "1"]
    started = subprocess.run([*command, "--prefect-port", "0", "--mlflow-port", "0"], capture_output=True, text=True)
    try:
        found = {"started": started.returncode, "said": started.stdout + started.stderr}
        if not started.returncode:
            found |= ask_everything(home, address)
        print(json.dumps(found))
    finally:
        subprocess.run([str(BIN / "crash"), "down", "--home", str(home)], capture_output=True)


def ask_everything(home: Path, address: str) -> dict:
    """Status codes of every call to both servers, reached by another address than loopback."""
    lines = (home / "service" / "connection.env").read_text().splitlines()
    connection = dict(line.split("=", 1) for line in lines)
    prefect = at(connection["PREFECT_API_URL"].removesuffix("/api"), address)
    mlflow = at(connection["MLFLOW_TRACKING_URI"], address)
    user, password = connection["PREFECT_API_AUTH_STRING"].split(":", 1)
    return {
        "prefect": statuses(prefect, prefect_calls(prefect)),
        "mlflow": statuses(mlflow, mlflow_calls()),
        "prefect_with_password": flow_runs(prefect, (user, password)),
        "prefect_with_another": flow_runs(prefect, (user, "x")),
        "mlflow_with_password": search(mlflow, (user, password)),
        "mlflow_with_another": search(mlflow, (user, "x")),
        "page_asks": httpx.get(f"{prefect}/ui-settings", timeout=SECONDS).text,
        "password_shown": password in json.dumps(connection["PREFECT_API_URL"]),
    }


def at(url: str, address: str) -> str:
    """The same port under another address."""
    return re.sub(r"//[^:]+:", f"//{address}:", url)


def prefect_calls(prefect: str) -> list[tuple[str, str]]:
    """Method and path of every call that the server describes."""
    paths = httpx.get(f"{prefect}/openapi.json", timeout=SECONDS).json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def mlflow_calls() -> list[tuple[str, str]]:
    """Method and path of every call that the server has."""
    from mlflow.server.handlers import get_endpoints

    return [(method, path) for path, _, methods in get_endpoints() for method in methods]


def statuses(server: str, calls: list[tuple[str, str]]) -> dict[str, int]:
    """What each call answers to somebody without the password."""
    with httpx.Client(base_url=server, timeout=SECONDS) as client:
        return {f"{method} {path}": client.request(method, filled(path)).status_code for method, path in calls}


def filled(path: str) -> str:
    """The path with something in its places."""
    return re.sub(r"\{[^}]*\}|<[^>]*>", NOTHING, path)


def flow_runs(prefect: str, login: tuple[str, str]) -> int:
    """Whether runs can be listed."""
    return httpx.post(f"{prefect}/api/flow_runs/filter", json={}, auth=login, timeout=SECONDS).status_code


def search(mlflow: str, login: tuple[str, str]) -> int:
    """Whether experiments can be listed."""
    url = f"{mlflow}/api/2.0/mlflow/experiments/search"
    return httpx.post(url, json={"max_results": 1}, auth=login, timeout=SECONDS).status_code


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
