"""`crash doctor`: what is installed and reachable, what is missing, and what to do about it."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from flows.cli.finding import Finding, print_findings

PACKAGES = ("torch", "transformers", "prefect", "fastapi", "mlflow", "datasets", "lm_eval", "accelerate", "safetensors")
ADVISED_FREE_BYTES = 10 * 2**30


def doctor(
    home: Path,
    store: Path,
    store_url: str | None,
    mlflow: str | None,
    verify: bool,
    inputs: list[Finding] | None = None,
) -> int:
    """Print every finding, those of `inputs` last; return exit code 0, or that of the first problem."""
    findings = [*_versions(), *_devices(home), *_disk(home, store), *_variables(), *_servers(home, mlflow)]
    if store_url:
        findings.append(_object_store(store_url))
    if verify:
        findings += _artifacts(store)
    return print_findings([*findings, *(inputs or [])])


def _versions() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "not installed", "install the project again: make setup")
            continue
        yield Finding(name, version, _wrong_version(name, version))


def _wrong_version(name: str, version: str) -> str:
    number = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if name == "fastapi" and number >= (0, 151):
        return "the Prefect server does not start with it: pip install 'fastapi<0.151'"
    if name == "transformers" and number < (5, 3):
        return "older releases may run code from a model folder: pip install 'transformers>=5.3'"
    return ""


def _devices(home: Path) -> Iterator[Finding]:
    import torch

    from tasks.engine.resources import usable_cores, visible_gpus

    yield Finding("cpu", f"{usable_cores()} cores usable")
    yield _precision(home)
    if not torch.cuda.is_available():
        found = visible_gpus()
        remedy = "the driver shows GPUs but this torch build cannot use them: install the CUDA build" if found else ""
        yield Finding("gpu", "none", remedy)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        capability = f"{properties.major}.{properties.minor}"
        yield Finding(f"gpu {index}", f"{properties.name}, {memory:.0f} GiB, compute capability {capability}")


def _precision(home: Path) -> Finding:
    from tasks.core.errors import CrashError
    from tasks.engine.precision import describe_rates, faster_format, machine_rates

    try:
        rates = machine_rates(home)
    except CrashError as error:
        what, _, remedy = str(error).partition("; ")
        return Finding("auto precision", what.splitlines()[0], remedy or "see whether other work fills the GPU")
    return Finding("auto precision", f"{faster_format(rates)} ({describe_rates(rates)})")


def _disk(home: Path, store: Path) -> Iterator[Finding]:
    for name, folder in (("home", home.absolute()), ("store", store)):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        remedy = ""
        if not os.access(existing, os.W_OK):
            remedy = f"{existing} cannot be written: change its permissions or choose another folder (place.home)"
        elif free < ADVISED_FREE_BYTES:
            remedy = "less than 10 GiB free: remove old artifacts with `crash gc`, or choose another disk (place.store)"
        yield Finding(name, f"{folder} ({free / 2**30:.0f} GiB free)", remedy)


def _variables() -> Iterator[Finding]:
    """Find environment variables that would stop a run, or keep it from reaching other machines."""
    from flows.running.environment import check_variables
    from tasks.core.errors import EnvironmentFault
    from tasks.store.loopback import SET_ASIDE

    try:
        check_variables()
    except EnvironmentFault as error:
        what, _, remedy = str(error).partition("; ")
        yield Finding("environment", what, remedy)
    for note in filter(None, os.environ.get(SET_ASIDE, "").split(";")):
        name, _, reason = note.partition("=")
        yield Finding("proxy", f"{name} is not used", f"to reach other machines through it: {reason}")


def _servers(home: Path, tracking: str | None) -> Iterator[Finding]:
    prefect = os.environ.get("PREFECT_API_URL")
    if not prefect:
        yield Finding("prefect", "its own server for the time of each run (PREFECT_API_URL is not set)")
    else:
        yield _reached(prefect)
    tracking = tracking or os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if tracking:
        yield _tracked(tracking)
    else:
        yield Finding("mlflow", f"SQLite file under {home.absolute() / 'mlflow'} (a settings file may name a server)")


def _reached(prefect: str) -> Finding:
    from tasks.tracking.servers import redact_url, unreachable

    if why := unreachable(f"{prefect.rstrip('/')}/health"):
        return Finding("prefect", f"{redact_url(prefect)}: {why}", "start the server, or correct or unset the address")
    return Finding("prefect", f"{redact_url(prefect)}: answers")


def _tracked(uri: str) -> Finding:
    from tasks.core.errors import EnvironmentFault
    from tasks.tracking.address import check_tracking
    from tasks.tracking.servers import redact_url

    named = "MLFLOW_TRACKING_URI" if uri == os.environ.get("MLFLOW_TRACKING_URI", "").strip() else "place.mlflow"
    try:
        check_tracking(uri, named, "crash-flow")
    except EnvironmentFault as error:
        return Finding("mlflow", redact_url(uri), str(error))
    return Finding("mlflow", f"{redact_url(uri)}: answers")


def _object_store(url: str) -> Finding:
    from tasks.core.errors import CrashError
    from tasks.store.remote.objects import Remote

    try:
        Remote(url).check()
    except CrashError as error:
        what, _, remedy = str(error).partition("; ")
        return Finding("object store", what, remedy or what)
    return Finding("object store", f"{url}: can be written, and refuses to create an object twice")


def _artifacts(store: Path) -> Iterator[Finding]:
    from tasks.store.artifacts import Store

    if not store.is_dir():
        yield Finding("artifacts", "none yet")
        return
    bad = Store(store).verify_everything()
    yield Finding(
        "artifacts",
        "all digests right" if not bad else f"{len(bad)} damaged, moved to quarantine",
        "run again what needed them: they are computed anew" if bad else "",
    )
