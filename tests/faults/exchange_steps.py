"""The steps of an exchange as functions that a test disturbs: seal, open and admit one bundle or two, in new homes."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from flows.exchange.admission import Answered, accept
from flows.exchange.owner import SETTINGS_FILE
from flows.settings.kinds import EmulateSettings
from tasks.artifacts.party_report import PartyReport
from tasks.core.tuning.method import WHOLE_BLOCKS
from tasks.exchange.ledger import opened
from tasks.exchange.manifest import EmulatorManifest, read_manifest, to_bytes
from tasks.exchange.names import MANIFEST_FILE
from tasks.store.artifacts import Ref, Store
from tasks.store.files import write_flushed, write_text
from tasks.store.keys import stage_key
from tests.exchange.parties import (
    DEMO,
    Party,
    make_emulator,
    make_parties,
    make_tuning,
    receive_all_tuned,
    receive_emulator,
    receive_tuned,
    seal_emulator,
    seal_tuned,
)

REPORT: PartyReport = {"title": "plugged", "scores": [], "facts": {}, "own": {}}
SETTINGS = {"strategy": "crash", "model": {"name": str(DEMO)}, "task": {"name": "people"}, "plan": {"num_kept": 4}}
STEPS = (
    "seal an emulator",
    "open an emulator",
    "seal tuned blocks",
    "open tuned blocks",
    "admit tuned blocks",
    "admit a merge",
)
# Behind the names of the second data owner's bundles.
LAB = ("-lab",)


@dataclass(frozen=True)
class Exchange:
    """A model owner and two data owners under a folder, with what was exchanged before a step."""

    root: Path

    @property
    def acme(self) -> Party:
        """The model owner."""
        return Party("acme", self.root / "homes" / "acme")

    @property
    def clinic(self) -> Party:
        """The data owner."""
        return Party("clinic", self.root / "homes" / "clinic")

    @property
    def lab(self) -> Party:
        """The data owner whose tuned blocks are merged with those of the first."""
        return Party("lab", self.root / "homes" / "lab")

    def asked(self, bundle: str = "emulator") -> EmulatorManifest:
        """Return the manifest of an emulator."""
        found = read_manifest((self.root / bundle / MANIFEST_FILE).read_bytes())
        assert isinstance(found, EmulatorManifest)
        return found

    def party_of(self, step: str) -> Party:
        """Return the party that takes a step."""
        return self.clinic if step in ("open an emulator", "seal tuned blocks") else self.acme

    def out_of(self, step: str) -> Path | None:
        """Return the folder that a step hands over."""
        names = {"seal an emulator": "emulator", "seal tuned blocks": "returned"} | dict.fromkeys(STEPS[4:], "model")
        return self.root / "out" / names[step] if step in names else None

    def run(self, step: str) -> None:
        """Take a step; each is what a command does, behind its computing."""
        out = self.root / "out"
        if step == "seal an emulator":
            seal_emulator(self.acme, self.clinic, self.root / "made", out / "emulator", remember=self._remember)
        elif step == "open an emulator":
            receive_emulator(self.clinic, self.root / "emulator")
        elif step == "seal tuned blocks":
            asked = receive_emulator(self.clinic, self.root / "emulator")
            seal_tuned(self.clinic, self.acme, asked, self.root / "tuning", out / "returned")
        elif step == "open tuned blocks":
            receive_tuned(self.acme, self.root / "returned", self.asked())
        else:
            self.admit(out / "model", *(LAB if step == "admit a merge" else ()))

    def _remember(self, manifest: EmulatorManifest) -> None:
        folder = self.acme.place.sealed / manifest.id
        folder.mkdir(parents=True)
        write_flushed(folder / MANIFEST_FILE, to_bytes(manifest))
        write_text(folder / SETTINGS_FILE, json.dumps({}))

    def admit(self, out: Path, *others: str) -> None:
        """Verify the tuned blocks, and write the full model with them. others: names behind those of further bundles.

        What was merged before is what one party sent: the content does not matter here.
        """
        names = ("", *others)
        asked = [self.asked(f"emulator{name}") for name in names]
        found = receive_all_tuned(self.acme, [self.root / f"returned{name}" for name in names], asked)
        settings = EmulateSettings.model_validate(SETTINGS)
        store, plugged = Store(self.root / "store"), Ref.model_validate_json((self.root / "plugged.json").read_text())
        pairs = zip(found, asked, strict=True)
        answers = [Answered(self.acme.place, each, emulator, settings, WHOLE_BLOCKS) for each, emulator in pairs]
        accept(answers, store, plugged, out, REPORT)

    def answer(self, name: str, party: Party) -> None:
        """Have a data owner receive an emulator and seal tuned blocks. name: behind those of both bundles."""
        seal_emulator(self.acme, party, self.root / "made", self.root / f"emulator{name}", remember=self._remember)
        asked = receive_emulator(party, self.root / f"emulator{name}")
        seal_tuned(party, self.acme, asked, self.root / "tuning", self.root / f"returned{name}")


def prepare(root: Path, step: str) -> Exchange:
    """Exchange what comes before a step. The ledgers of both parties have been used before, as commands do."""
    exchange = Exchange(root)
    make_parties(root / "homes", "acme", "clinic", "lab")
    (root / "out").mkdir()
    # Commands have been used before: what they leave is compared with what was there.
    for party in (exchange.acme, exchange.clinic, exchange.lab):
        party.place.received.mkdir()
        with opened(party.place.ledger):
            pass
    make_emulator(root / "made")
    make_tuning(root / "tuning")
    seal_emulator(exchange.acme, exchange.clinic, root / "made", root / "emulator", remember=exchange._remember)
    if step in STEPS[2:]:
        asked = receive_emulator(exchange.clinic, root / "emulator")
    if step in STEPS[3:]:
        seal_tuned(exchange.clinic, exchange.acme, asked, root / "tuning", root / "returned")
    if step == "admit a merge":
        exchange.answer(*LAB, exchange.lab)
    if step in STEPS[4:]:
        found = receive_tuned(exchange.acme, root / "returned", exchange.asked())
        (root / "plugged.json").write_text(_published(Store(root / "store"), found.folder).model_dump_json())
    return exchange


def copied(exchange: Exchange, root: Path) -> Exchange:
    """Return a copy of an exchange in another folder, in the place of an earlier copy."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(exchange.root, root)
    return Exchange(root)


def _published(store: Store, folder: Path) -> Ref:
    key, inputs = stage_key("plug_in", "tasks.store.files", {}, ())
    with store.publishing("plug_in", key) as out:
        shutil.copytree(folder, out, dirs_exist_ok=True)
        return store.publish("plug_in", key, out, inputs).ref
