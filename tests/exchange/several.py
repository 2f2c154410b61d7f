"""Several data owners who answer emulators of one model owner, as `crash emulate` and `crash tune` would."""

import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from flows.exchange.owner import SETTINGS_FILE
from flows.settings.kinds import EmulateSettings
from tasks.artifacts.tuning import TUNED_FILE
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.exchange.manifest import EmulatorManifest, to_bytes
from tasks.exchange.names import MANIFEST_FILE
from tasks.models.block_matrices import model_tensors
from tasks.models.tensor_sources import read_stored
from tests.exchange.parties import (
    DEMO,
    Party,
    make_emulator,
    make_parties,
    make_tuning,
    receive_emulator,
    seal_emulator,
    seal_tuned,
)


@dataclass(frozen=True)
class Several:
    """The model owner, data owners, and the folders that these sent back, by name."""

    root: Path
    acme: Party
    clinics: list[Party]
    returned: dict[str, Path]

    @property
    def bundles(self) -> list[Path]:
        """The bundles that all of them sent back."""
        return list(self.returned.values())

    def copied(self, root: Path) -> "Several":
        """Return a copy of everything in another folder, which does not exist."""
        shutil.copytree(self.root, root)

        def there(party: Party) -> Party:
            return replace(party, home=root / party.home.relative_to(self.root))

        returned = {name: root / folder.relative_to(self.root) for name, folder in self.returned.items()}
        return Several(root, there(self.acme), [there(each) for each in self.clinics], returned)

    def send_back(self, clinic: Party, name: str, method: TuningMethod = WHOLE_BLOCKS, **changed: Any) -> Path:
        """Seal tuned blocks of a party that has an emulator. changed: fields of the manifest that are made up."""
        asked = receive_emulator(clinic, self.root / f"emulator-{clinic.name}", _now())
        tuning = self.root / f"tuning-{name}"
        if not tuning.exists():
            make_close(tuning, method)
        fields = {"method": method.cache_view(), **changed}
        seal_tuned(clinic, self.acme, asked, tuning, self.root / name, _now(), **fields)
        return self.root / name


def make_several(root: Path, *names: str) -> Several:
    """Make the parties, an emulator for each, and what each sent back."""
    acme, *clinics = make_parties(root / "homes", "acme", *names)
    made = Several(root, acme, clinics, {})
    emulator = make_emulator(root / "made")
    for clinic in clinics:
        asked = seal_emulator(acme, clinic, emulator, root / f"emulator-{clinic.name}", _now())
        remember(acme, asked)
    returned = {clinic.name: made.send_back(clinic, f"returned-{clinic.name}") for clinic in clinics}
    return replace(made, returned=returned)


def make_close(folder: Path, method: TuningMethod = WHOLE_BLOCKS) -> None:
    """Write a tuning's folder: whole blocks close to the embedded model's own, or small factors."""
    make_tuning(folder, method)
    own = model_tensors(DEMO, 12)
    generator = torch.Generator().manual_seed(int.from_bytes(folder.name.encode()) % 1000)
    state = load_file(folder / TUNED_FILE)
    for name, tensor in state.items():
        block, _, rest = name.partition(".")
        noise = 0.01 * torch.randn(tensor.shape, generator=generator)
        stored = own.get((int(block), rest))
        state[name] = noise if stored is None else read_stored(stored).float() * (1 + noise)
    save_file(state, folder / TUNED_FILE)


def remember(acme: Party, asked: EmulatorManifest) -> None:
    """Keep manifest and settings of an emulator in the home of its owner."""
    settings = EmulateSettings.model_validate(
        {
            "strategy": "crash",
            "model": {"name": str(DEMO), "precision": "float32"},
            "task": {"name": "people", "data": str(DEMO.parent / "task"), "num_train": 8, "num_test": 8},
            "support": {"num_rows": 8, "split": "train"},
            "plan": {"num_kept": 4},
            "place": {"home": str(acme.home), "mlflow": "later"},
        }
    )
    folder = acme.place.sealed / asked.id
    folder.mkdir(parents=True)
    (folder / MANIFEST_FILE).write_bytes(to_bytes(asked))
    (folder / SETTINGS_FILE).write_text(json.dumps(settings.model_dump(mode="json")))


def _now() -> datetime:
    return datetime.now(UTC)
