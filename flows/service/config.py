"""The config with which a home folder's servers are started, kept for the next start, and their passwords."""

import json
import os
import secrets
import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PASSWORD_BYTES = 24


class ServiceConfig(BaseModel):
    """Where the servers listen, and in which database they keep their data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    prefect_port: int = 4200
    mlflow_port: int = 5000
    database: Literal["postgresql", "sqlite"] = "postgresql"
    postgres_port: int = 0
    auth: bool = False
    pool: str = "gpu"

    @property
    def address(self) -> str:
        """The address to which clients on this machine connect."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "localhost", "127.0.0.1") else self.host

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK


class Secrets(BaseModel):
    """The passwords, generated once and readable only by the owner of the files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = "crash"
    password: str
    postgres: str
    flask: str


def read_config(folder: Path) -> ServiceConfig | None:
    """Read the config with which the servers under this folder were last started, if ever."""
    path = folder / "choices.json"
    return ServiceConfig.model_validate_json(path.read_text()) if path.exists() else None


def write_config(folder: Path, config: ServiceConfig) -> None:
    """Save the config for the next start."""
    write_private(folder / "choices.json", config.model_dump_json(indent=1))


def own_secrets(folder: Path) -> Secrets:
    """Return the passwords of this folder's servers, generated on first use."""
    path = folder / "secrets.json"
    if not path.exists():
        made = {name: secrets.token_urlsafe(PASSWORD_BYTES) for name in ("password", "postgres", "flask")}
        write_private(path, json.dumps(made))
    return Secrets.model_validate_json(path.read_text())


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody but its owner can read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    os.replace(temporary, path)


def port_taken(host: str, port: int) -> bool:
    """Whether the port is in use already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
