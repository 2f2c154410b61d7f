"""Admission of tuned blocks of a given size, in a separate process: FOLDER, made by `prepare`."""

import hashlib
import json
import re
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.tuning.method import WHOLE_BLOCKS
from tasks.exchange.ledger import Ledger
from tasks.exchange.ledger_entry import Entry
from tasks.exchange.manifest import Answer, Manifest, TensorFacts, TunedBlocksManifest
from tasks.exchange.opening import Expectation, open_tuned_blocks
from tasks.exchange.place import ExchangePlace
from tasks.exchange.sealing import seal
from tasks.store.files import link_or_copy
from tests.exchange.parties import NOW, make_emulator, make_parties, receive_emulator, seal_emulator

TENSOR = (4096, 2048)
WEIGHTS = "weights.safetensors"


def prepare(root: Path, num_tensors: int) -> int:
    """Seal tuned blocks of so many tensors for a party whose home is `root / "homes" / "acme"`; return their bytes."""
    acme, clinic = make_parties(root / "homes", "acme", "clinic")
    seal_emulator(acme, clinic, make_emulator(root / "made"), root / "emulator")
    asked = receive_emulator(clinic, root / "emulator")
    folder = root / "files"
    folder.mkdir()
    size = _write(folder / WEIGHTS, num_tensors)

    def describe(_: Ledger, header: dict[str, Any]) -> Manifest:
        emulator: Any = asked.manifest
        return TunedBlocksManifest(
            **header,
            answers=Answer(id=emulator.id, nonce=emulator.nonce, manifest=asked.digest),
            base=emulator.base.weights,
            method=WHOLE_BLOCKS.cache_view(),
            tuning={},
            scores={},
        )

    seal(folder, root / "returned", "tuned_blocks", describe, clinic.to(acme), clinic.place, NOW)
    return size


def tensors(num_tensors: int) -> dict[str, TensorFacts]:
    """Return the names and shapes of the tensors."""
    return {f"{number}.weight": TensorFacts(dtype="F32", shape=TENSOR) for number in range(num_tensors)}


def admit(root: Path) -> None:
    """Verify the bundle and take it in."""

    def expect(manifest: TunedBlocksManifest, _: Entry) -> Expectation:
        count = manifest.files[WEIGHTS].size // (4 * TENSOR[0] * TENSOR[1])
        return Expectation(
            {WEIGHTS: tensors(count)}, lambda copy, out: link_or_copy(copy / WEIGHTS, out / WEIGHTS), "BF16"
        )

    place = ExchangePlace.of_home(root / "homes" / "acme")
    open_tuned_blocks([root / "returned"], place, NOW + timedelta(days=1), expect)


def _write(file: Path, num_tensors: int) -> int:
    size = 4 * TENSOR[0] * TENSOR[1]
    header = {
        name: {"dtype": facts.dtype, "shape": facts.shape, "data_offsets": [number * size, (number + 1) * size]}
        for number, (name, facts) in enumerate(tensors(num_tensors).items())
    }
    text = json.dumps(header).encode()
    generator = np.random.default_rng(0)
    with open(file, "wb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        for _ in range(num_tensors):
            target.write(generator.standard_normal(TENSOR, dtype=np.float32).tobytes())
        return target.tell()


def main() -> None:
    """Print seconds of admission and of a digest of the same file, and the memory of the admission, as JSON."""
    root = Path(sys.argv[1])

    def megabytes(name: str) -> float:
        return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]

    Path("/proc/self/clear_refs").write_text("5")
    before, began = megabytes("VmRSS"), time.perf_counter()
    admit(root)
    seconds, peak = time.perf_counter() - began, megabytes("VmHWM")
    began = time.perf_counter()
    with open(root / "returned" / WEIGHTS, "rb") as file:
        hashlib.file_digest(file, "sha256")
    alone = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "digest": alone, "before": before, "peak": peak}))


if __name__ == "__main__":
    main()
