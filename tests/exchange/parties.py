"""Two parties of the tests: each with a home, keys and trust in the other; and bundles between them."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tasks.artifacts.plan import write_plan
from tasks.artifacts.tuning import TUNED_FILE
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.exchange import emulator_bundle, tuned_bundle
from tasks.exchange.keys import PublicKey, new_key, own_key, trust, trusted_key
from tasks.exchange.ledger import Ledger
from tasks.exchange.ledger_entry import Entry
from tasks.exchange.manifest import (
    Answer,
    BaseModelFacts,
    Disclosure,
    EmulatorManifest,
    Manifest,
    Returns,
    TunedBlocksManifest,
)
from tasks.exchange.opening import Expectation, OpenedBundle, open_emulator, open_tuned_blocks
from tasks.exchange.place import ExchangePlace
from tasks.exchange.receiving import private_folder
from tasks.exchange.sealing import Parties, seal
from tasks.models.emulators.emulator import write_emulator
from tasks.models.resolving import resolve_model

DEMO = Path(__file__).parents[2] / "flows" / "demo" / "model"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
PLAN = fixed_plan(12, kept=(0, 3, 6, 11), tuned=(0, 11))


@dataclass(frozen=True)
class Party:
    """One party: its name, its home, and the place of keys, ledger and accepted bundles in it."""

    name: str
    home: Path

    @property
    def place(self) -> ExchangePlace:
        """The place in its home."""
        return ExchangePlace.of_home(self.home)

    @property
    def public(self) -> PublicKey:
        """The public half of its key."""
        return own_key(self.place.keys).public

    def to(self, other: "Party") -> Parties:
        """Return this party as the sender of a bundle to another."""
        return Parties(own_key(self.place.keys), trusted_key(self.place.trusted, other.name))


def make_parties(root: Path, *names: str, now: datetime = NOW) -> list[Party]:
    """Make parties that trust each other. now: the time at which their keys are made."""
    parties = [Party(name, root / name) for name in names]
    for each in parties:
        new_key(each.name, each.place.keys, now)
    for each in parties:
        for other in parties:
            if other is not each:
                trust(other.place.keys / f"{other.name}.pub", each.place.trusted)
    return parties


@cache
def demo_model() -> Any:
    """Return the embedded model as stages take it."""
    return resolve_model(str(DEMO))


def make_emulator(folder: Path) -> Path:
    """Write an emulator of the embedded model into a folder."""
    write_emulator(DEMO, PLAN, folder)
    return folder


def seal_emulator(
    owner: Party,
    clinic: Party,
    emulator: Path,
    out: Path,
    now: datetime = NOW,
    remember: Callable[[EmulatorManifest], None] = lambda _: None,
) -> EmulatorManifest:
    """Seal an emulator of the embedded model. remember: called within the transaction, as the flow does."""
    model = demo_model()

    with private_folder(out.parent) as folder:
        parts = emulator_bundle.write_files(emulator, model, folder)

        def describe(ledger: Ledger, header: dict[str, Any]) -> Manifest:
            described = EmulatorManifest(
                **header,
                nonce="1" * 31 + str(header["sequence"] % 10),
                base=BaseModelFacts(
                    name="demo",
                    weights=model.weights,
                    tokenizer=model.tokenizer,
                    num_blocks=model.num_blocks,
                    num_parameters=1000,
                ),
                architecture=parts.architecture,
                plan=parts.plan,
                compression=parts.compression,
                tokenizer=parts.tokenizer,
                returns=Returns(
                    methods=("blocks", "lora"), max_rank=8, template=emulator_bundle.template_of(DEMO, PLAN)
                ),
                disclosure=Disclosure(blocks=PLAN.kept, share=0.6, blocks_so_far=PLAN.kept, share_so_far=0.6),
            )
            remember(described)
            return described

        manifest = seal(folder, out, "emulator", describe, owner.to(clinic), owner.place, now)
    assert isinstance(manifest, EmulatorManifest)
    return manifest


def receive_emulator(clinic: Party, bundle: Path, now: datetime = NOW) -> OpenedBundle:
    """Open an emulator's bundle at the data owner's."""

    def restore(manifest: EmulatorManifest, copy: Path, out: Path) -> None:
        emulator_bundle.restore_folder(copy, manifest, out)

    return open_emulator(bundle, clinic.place, now, restore)


def make_tuning(folder: Path, method: TuningMethod = WHOLE_BLOCKS) -> Path:
    """Write a tuning's folder with random tensors of the right names and shapes."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    expected = tuned_bundle.expected_tensors(DEMO, PLAN, method)
    (tensors,) = expected.values()
    state = {name: 0.1 * torch.randn(facts.shape, generator=generator) for name, facts in tensors.items()}
    save_file(state, folder / TUNED_FILE)
    write_plan(folder, PLAN)
    return folder


def seal_tuned(
    clinic: Party, owner: Party, asked: OpenedBundle, tuning: Path, out: Path, now: datetime = NOW, **changed: Any
) -> TunedBlocksManifest:
    """Seal the tuned blocks that answer an opened emulator. changed: fields of the manifest that are made up."""
    emulator = asked.manifest
    assert isinstance(emulator, EmulatorManifest)
    with private_folder(out.parent) as folder:
        tuned_bundle.write_files(tuning, folder)

        def describe(_: Ledger, header: dict[str, Any]) -> Manifest:
            fields = {
                "answers": Answer(id=emulator.id, nonce=emulator.nonce, manifest=asked.digest),
                "base": emulator.base.weights,
                "method": WHOLE_BLOCKS.cache_view(),
                "tuning": {"num_steps": 3.0},
                "scores": {},
            }
            return TunedBlocksManifest(**{**header, **fields, **changed})

        manifest = seal(folder, out, "tuned_blocks", describe, clinic.to(owner), clinic.place, now)
    assert isinstance(manifest, TunedBlocksManifest)
    return manifest


def receive_tuned(owner: Party, bundle: Path, emulator: EmulatorManifest, now: datetime = NOW) -> OpenedBundle:
    """Open a bundle of tuned blocks at the model owner's."""
    (found,) = receive_all_tuned(owner, [bundle], [emulator], now)
    return found


def receive_all_tuned(
    owner: Party, bundles: Sequence[Path], emulators: Sequence[EmulatorManifest], now: datetime = NOW
) -> list[OpenedBundle]:
    """Open bundles of tuned blocks at the model owner's, all or none."""
    returns = {emulator.id: emulator.returns for emulator in emulators}

    def expect(manifest: TunedBlocksManifest, _: Entry) -> Expectation:
        method = tuned_bundle.method_of(manifest, returns[manifest.answers.id])
        tensors = tuned_bundle.expected_tensors(DEMO, PLAN, method)
        return Expectation(
            tensors,
            lambda copy, out: tuned_bundle.restore_folder(copy, PLAN, method, out),
            tuned_bundle.serving_format(DEMO),
        )

    return open_tuned_blocks(bundles, owner.place, now, expect)


def tree_digest(folder: Path) -> str:
    """Return a digest of everything under a folder: names, kinds and content."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        digest.update(f"{path.relative_to(folder)} {kind}\n".encode())
        if kind == "file":
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def resign(bundle: Path, signer: Party, manifest: bytes) -> None:
    """Write another manifest into a bundle, with a valid signature of a party."""
    (bundle / "manifest.json").write_bytes(manifest)
    (bundle / "manifest.sig").write_bytes(own_key(signer.place.keys).sign(manifest))


def copied(bundle: Path, target: Path) -> Path:
    """Copy a bundle, to damage the copy."""
    shutil.copytree(bundle, target)
    return target
