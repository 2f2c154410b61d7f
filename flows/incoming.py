"""Bundles that arrive in a folder: each starts the flow `plug-in` once, which verifies it and waits for an answer.

A file that arrives sends no event to a Prefect server, so that this flow looks by a schedule (`incoming/watch`).
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.deployments import run_deployment

from tasks.core.errors import InputError, RefusedError
from tasks.exchange.folder import list_bundle, read_small
from tasks.exchange.ledger import ACCEPTED, DECLINED, opened
from tasks.exchange.manifest import TunedBlocksManifest, read_manifest
from tasks.exchange.names import MANIFEST_FILE
from tasks.exchange.place import ExchangePlace
from tasks.store.home import default_home

logger = logging.getLogger(__name__)
DEPLOYMENT = "plug-in/run"


@dataclass(frozen=True)
class Arrived:
    """Tuned blocks whose files are all there. id: that of their manifest, which nobody has verified yet."""

    folder: Path
    id: str
    digest: str


@flow(name="incoming", persist_result=False)
def incoming(folder: str, out: str, home: str | None = None) -> list[str]:
    """Start `plug-in` for each bundle of tuned blocks that is complete and new here; return the folders' names.

    folder: has one folder for each bundle; out: folder in which the plugged models are written; home: of the owner of
    the model, by default the worker's.
    """
    started = []
    for bundle in arrived(Path(folder), Path(home or default_home())):
        start(bundle, Path(out), home)
        started.append(bundle.folder.name)
    logger.info("%d new bundles in %s", len(started), folder)
    return started


def arrived(folder: Path, home: Path) -> Iterator[Arrived]:
    """Yield the bundles in a folder that are complete, and neither accepted nor declined.

    Raises:
        InputError: when there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder on this machine: create it, or give the one in which bundles arrive"
        )
    with opened(ExchangePlace.of_home(home).ledger) as ledger:
        known = {entry.id for entry in ledger.entries() if entry.state in (ACCEPTED, DECLINED)}
    for each in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            found = _complete(each)
        except RefusedError as error:
            logger.warning("left alone: %s: %s", each.name, error)
            continue
        if found.id not in known:
            yield found


def _complete(folder: Path) -> Arrived:
    sizes, content = list_bundle(folder), read_small(folder, MANIFEST_FILE)
    manifest = read_manifest(content)
    if not isinstance(manifest, TunedBlocksManifest):
        raise RefusedError("it is an emulator, and only tuned blocks are plugged in")
    for name, facts in manifest.files.items():
        if sizes.get(name) != facts.size:
            raise RefusedError(f"{name}: {sizes.get(name, 0):,} of {facts.size:,} bytes so far")
    return Arrived(folder, manifest.id, hashlib.sha256(content).hexdigest())


def start(bundle: Arrived, out: Path, home: str | None, run: Callable[..., Any] = run_deployment) -> None:
    """Start the flow `plug-in` for a bundle, once for each manifest, however often this is called."""
    model = out.absolute() / f"{bundle.folder.name}-{bundle.digest[:8]}"
    given: dict[str, Any] = {"bundles": [str(bundle.folder.absolute())], "out": str(model)}
    given |= {"home": home} if home else {}
    run(DEPLOYMENT, parameters=given, timeout=0, idempotency_key=f"plug-in-{bundle.digest}", as_subflow=False)
