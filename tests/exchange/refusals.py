"""Damaged bundles for tests, and what a refusal must be like."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.errors import RefusedError
from tasks.exchange.manifest import EmulatorManifest
from tasks.exchange.sealing import file_facts
from tests.exchange.parties import (
    Party,
    copied,
    receive_tuned,
    resign,
    tree_digest,
)


@dataclass(frozen=True)
class Exchanged:
    """Two parties, a valid emulator and valid tuned blocks; neither was accepted yet at its recipient's."""

    acme: Party
    clinic: Party
    emulator: Path
    asked: EmulatorManifest
    returned: Path


@contextmanager
def refused(party: Party, reason: str) -> Iterator[None]:
    """Expect a refusal in one line with a reason, after which the home of the party is as before."""
    party.place.received.mkdir(parents=True, exist_ok=True)
    before, began = tree_digest(party.home), time.monotonic()
    with pytest.raises(RefusedError, match=reason) as found:
        yield
    assert found.value.exit_code == 3
    assert str(found.value).startswith("refused ")
    assert "\n" not in str(found.value)
    # Most take a hundredth of it, beside other programs too.
    assert time.monotonic() - began < 30
    assert tree_digest(party.home) == before


def refuse_returned(exchanged: Exchanged, bundle: Path, reason: str) -> None:
    with refused(exchanged.acme, reason):
        receive_tuned(exchanged.acme, bundle, exchanged.asked)


def sealed_again(signer: Party, bundle: Path, **changed: Any) -> Path:
    """Sign a damaged bundle of tuned blocks anew, as a dishonest data owner would, with digests that fit."""
    values = json.loads((bundle / "manifest.json").read_text())
    files = {name: facts for name, facts in file_facts(bundle).items() if not name.startswith("manifest.")}
    values |= {"files": {name: facts.model_dump() for name, facts in files.items()}} | changed
    resign(bundle, signer, json.dumps(values).encode())
    return bundle


def with_tensors(exchanged: Exchanged, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Return a bundle of tuned blocks with other tensors, properly signed."""
    bundle = copied(exchanged.returned, tmp_path / "bad")
    tensors = load_file(bundle / "weights.safetensors")
    change(tensors)
    save_file(tensors, bundle / "weights.safetensors", metadata={"format": "pt"})
    return sealed_again(exchanged.clinic, bundle)
