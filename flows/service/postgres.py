"""A private PostgreSQL cluster, run by the system's programs: separate data, port and password, loopback only."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tasks.core.errors import EnvironmentFault

# Debian does not put the server's programs on the PATH.
DEBIAN = Path("/usr/lib/postgresql")
USER = "crash"
# PostgreSQL refuses to run as root. This account comes with its packages; the only capability it keeps lets it reach a
# cluster inside folders that only root may enter.
AS_SERVICE = "setpriv --reuid postgres --regid postgres --clear-groups --inh-caps +dac_override --ambient-caps"
MISSING = (
    "PostgreSQL's programs (initdb, postgres) were not found on the PATH or under /usr/lib/postgresql. Install them"
    " (Debian, Ubuntu: apt-get install postgresql), or use `crash up --sqlite` for a single user"
)


class Postgres:
    """A cluster in a folder. password: of the role `crash`, which owns every database."""

    def __init__(self, folder: Path, port: int, password: str) -> None:
        self.folder, self.port, self._password = folder, port, password
        self.programs = find_programs(folder)

    def create(self) -> None:
        """Create the cluster unless it exists.

        Raises:
            EnvironmentFault: when initdb fails, with its message.
        """
        if (self.folder / "PG_VERSION").exists():
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its place, then renamed, so that a cluster is complete or absent.
        building = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix="postgres-building-"))
        if os.geteuid() == 0:
            shutil.chown(building, "postgres", "postgres")
        login = ["-U", USER, "-A", "scram-sha-256", "--pwfile=/dev/stdin"]
        try:
            self._run(["initdb", "-D", str(building), *login, "-E", "UTF8", "--locale=C"], self._password)
            os.rename(building, self.folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def command(self) -> list[str]:
        """Return the command that serves the cluster until it is asked to stop (SIGINT: at once, but in order)."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            # Prefect, MLflow and their worker processes hold pools of connections.
            "max_connections": 300,
            "shared_buffers": "128MB",
        }
        given = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [*privileges(), str(self.programs / "postgres"), "-D", str(self.folder), *given]

    def ready(self) -> bool:
        """Whether the server answers."""
        asked = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def require_database(self, name: str) -> None:
        """Create a database unless it exists."""
        query = f"select 1 from pg_database where datname = '{name}'"
        if self._client(["psql", "-Atc", query, "postgres"]).strip() != "1":
            self._client(["createdb", name])

    def url(self, database: str, driver: str) -> str:
        """Return the address of a database for SQLAlchemy."""
        return f"postgresql+{driver}://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def _client(self, command: list[str]) -> str:
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER]
        environment = {**os.environ, "PGPASSWORD": self._password, "PGCONNECT_TIMEOUT": "10"}
        program = [str(self.programs / command[0]), *place, *command[1:]]
        answer = subprocess.run(program, env=environment, capture_output=True, text=True)
        if answer.returncode:
            raise EnvironmentFault(f"PostgreSQL at 127.0.0.1:{self.port}: {answer.stderr.strip()}")
        return answer.stdout

    def _run(self, command: list[str], text: str) -> None:
        program = [*privileges(), str(self.programs / command[0]), *command[1:]]
        answer = subprocess.run(program, input=text, capture_output=True, text=True, cwd="/")
        if answer.returncode:
            raise EnvironmentFault(f"{command[0]} failed: {(answer.stderr or answer.stdout).strip()}")


def find_programs(folder: Path) -> Path:
    """Return the folder of the server's programs, for an existing cluster those of its major version.

    Raises:
        EnvironmentFault: when they are not installed.
    """
    wanted = (folder / "PG_VERSION").read_text().strip() if (folder / "PG_VERSION").exists() else None
    found = {place.parent.name: place for place in DEBIAN.glob("*/bin") if (place / "initdb").exists()}
    if (on_path := shutil.which("initdb")) is not None:
        place = Path(on_path).resolve().parent
        found.setdefault(_major(place), place)
    if wanted is not None and wanted not in found:
        raise EnvironmentFault(
            f"the cluster in {folder} is of PostgreSQL {wanted}, installed: {', '.join(sorted(found)) or 'none'};"
            f" install that version (apt-get install postgresql-{wanted}) or move the data with pg_upgrade"
        )
    if not found:
        raise EnvironmentFault(MISSING)
    return found[wanted or max(found, key=lambda major: int(major) if major.isdigit() else 0)]


def privileges() -> list[str]:
    """Return the prefix of PostgreSQL's commands: as root, one that changes to the service's account."""
    return [*AS_SERVICE.split(), "+dac_override"] if os.geteuid() == 0 else []


def _major(place: Path) -> str:
    answer = subprocess.run([str(place / "initdb"), "--version"], capture_output=True, text=True)
    return answer.stdout.rpartition(")")[2].strip().partition(".")[0]
