"""Bundles and the ledger as text, for people and for scripts."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.exchange.keys import own_public_keys, trusted_keys
from tasks.exchange.ledger import opened
from tasks.exchange.manifest import VERSION
from tasks.exchange.names import is_weights
from tasks.exchange.place import ExchangePlace
from tasks.exchange.receiving import Verified, copy_files, private_folder, refusing, verify_manifest
from tasks.reports.table import Table


def show(bundle: Path, place: ExchangePlace) -> str:
    """Return the manifest of a bundle as JSON, after its signature and its fields were checked.

    Raises:
        RefusedError: when a check fails.
    """
    return json.dumps(_verified(bundle, place).manifest.model_dump(mode="json"), indent=1)


def verify(bundle: Path, place: ExchangePlace) -> str:
    """Verify signature, manifest, files and values, and say so; recipient and ledger do not count.

    Raises:
        RefusedError: when a check fails.
    """
    with refusing(bundle), private_folder(place.verifying) as copy:
        verified = verify_manifest(bundle, copy, None, _known(place), datetime.now(UTC))
        weights = {name: None for name in verified.manifest.files if is_weights(name)}
        copy_files(bundle, copy, verified.manifest, weights)
    manifest = verified.manifest
    return (
        f"{bundle}: {manifest.kind} {manifest.id}, sequence {manifest.sequence}, from {manifest.sender.name} for"
        f" {manifest.recipient.name}, valid until {manifest.expires:%Y-%m-%d}, format version"
        f" {manifest.version} (this program reads up to {VERSION}): signature, manifest, digests and values are right"
    )


def compare(bundles: list[Path], place: ExchangePlace) -> str:
    """Return the fields in which the manifests of two bundles differ.

    Raises:
        RefusedError: when a check of one of them fails.
    """
    first, second = (_flat(_verified(each, place).manifest.model_dump(mode="json")) for each in bundles)
    rows = [
        [name, first.get(name), second.get(name)]
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
    return Table(["field", *(each.name for each in bundles)], rows, num_names=3).markdown()


def described_entries(place: ExchangePlace) -> list[dict[str, Any]]:
    """Return the entries of the ledger, oldest first; none where there is no ledger yet."""
    if not place.ledger.exists():
        return []
    with opened(place.ledger) as ledger:
        entries = ledger.entries()
    return [
        {
            "at": f"{each.at:%Y-%m-%d %H:%M}",
            "direction": each.direction,
            "kind": each.kind,
            "party": each.name,
            "sequence": each.sequence,
            "state": each.state,
            "blocks": list(each.blocks),
            "share": each.share,
            "id": each.id,
            "answers": each.answers,
        }
        for each in entries
    ]


def entries_table(entries: list[dict[str, Any]]) -> str:
    """Return the entries as a table that can be read as plain text."""
    if not entries:
        return "No bundle was sealed or received in this home."
    header = ["at (UTC)", "", "party", "kind", "no.", "state", "blocks given", "share", "id"]
    rows = [
        [
            each["at"],
            "to" if each["direction"] == "out" else "from",
            *(each[name] for name in ("party", "kind", "sequence", "state")),
            " ".join(map(str, each["blocks"])),
            None if each["share"] is None else f"{each['share']:.1%}",
            each["id"][:12],
        ]
        for each in entries
    ]
    return Table(header, rows, num_names=len(header)).markdown()


def _verified(bundle: Path, place: ExchangePlace) -> Verified:
    with refusing(bundle), private_folder(place.verifying) as copy:
        return verify_manifest(bundle, copy, None, _known(place), datetime.now(UTC))


def _known(place: ExchangePlace) -> list:
    """Return the keys whose bundles can be looked at: a party may look at those that it sealed itself."""
    return [*trusted_keys(place.trusted), *own_public_keys(place.keys)]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            # A stranger's text, without control characters.
            found[f"{prefix}{name}"] = json.dumps(value)
    return found
