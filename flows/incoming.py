"""Bundles that arrive in a folder: each starts the flow `plug-in` once, which waits for a person's answer.

A file that arrives sends no event to a Prefect server, so that this flow looks by a schedule (`incoming/watch`).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.deployments import run_deployment

from tasks.core.errors import InputError, RefusedError
from tasks.exchange.folder import list_bundle
from tasks.exchange.keys import own_public_keys, trusted_keys
from tasks.exchange.ledger import opened
from tasks.exchange.ledger_entry import ACCEPTED, DECLINED
from tasks.exchange.place import ExchangePlace
from tasks.exchange.receiving import private_folder, require_recipient, verify_manifest
from tasks.store.home import default_home

logger = logging.getLogger(__name__)
DEPLOYMENT = "plug-in/run"


@dataclass(frozen=True)
class Arrived:
    """Tuned blocks whose files are all there, by their verified manifest. digest: SHA-256 of it."""

    folder: Path
    id: str
    digest: str


@flow(name="incoming", persist_result=False)
def incoming(folder: str, out: str, home: str | None = None) -> list[str]:
    """Start `plug-in` for each bundle of tuned blocks that is complete; return the folders of those that wait for it.

    folder: has one folder for each bundle; out: folder in which the plugged models are written; home: of the owner of
    the model, by default the worker's.
    """
    found = arrived(Path(folder), Path(home or default_home()))
    waiting = [bundle.folder.name for bundle in found if start(bundle, Path(out), home)]
    logger.info("%d bundles in %s are being verified or wait for an answer", len(waiting), folder)
    return waiting


def arrived(folder: Path, home: Path) -> Iterator[Arrived]:
    """Yield the bundles in a folder that are complete, signed for this party, and neither accepted nor declined.

    Raises:
        InputError: when there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder on this machine: create it, or name the one that bundles arrive in")
    place = ExchangePlace.of_home(home)
    with opened(place.ledger) as ledger:
        known = {entry.id for entry in ledger.entries() if entry.state in (ACCEPTED, DECLINED)}
    for each in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            found = _complete(each, place)
        except (RefusedError, OSError) as error:
            logger.warning("left alone: %s: %s", each.name, error)
            continue
        if found.id not in known:
            yield found


def _complete(folder: Path, place: ExchangePlace) -> Arrived:
    with private_folder(place.verifying) as copy:
        verified = verify_manifest(folder, copy, "tuned_blocks", trusted_keys(place.trusted), datetime.now(UTC))
        require_recipient(verified, own_public_keys(place.keys))
    sizes = list_bundle(folder)
    for name, facts in verified.manifest.files.items():
        if sizes.get(name) != facts.size:
            raise RefusedError(f"{name}: {sizes.get(name, 0):,} of {facts.size:,} bytes so far")
    return Arrived(folder, verified.manifest.id, verified.digest)


def start(bundle: Arrived, out: Path, home: str | None, run: Callable[..., Any] = run_deployment) -> bool:
    """Start the flow `plug-in` for a bundle, once for each manifest; return whether a run is new, waits or goes on."""
    model = out.absolute() / f"{bundle.folder.name}-{bundle.digest[:8]}"
    given: dict[str, Any] = {"bundles": [str(bundle.folder.absolute())], "out": str(model)}
    given |= {"home": home} if home else {}
    found = run(DEPLOYMENT, parameters=given, timeout=0, idempotency_key=f"plug-in-{bundle.digest}", as_subflow=False)
    if found.state is not None and found.state.is_final():
        logger.warning(
            "%s: its run %s ended as %s and nothing was decided; run %s by hand once the reason is mended",
            bundle.folder.name,
            found.id,
            found.state.name,
            DEPLOYMENT,
        )
        return False
    return True
