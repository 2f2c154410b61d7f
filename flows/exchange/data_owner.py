"""The data owner: open an emulator that another party has sealed, and seal the tuned blocks."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.exchange.facts import WEIGHTS
from flows.exchange.surroundings import require_no_password
from flows.settings.exchange import TuneSettings
from flows.settings.run import Settings
from tasks.core.errors import InputError
from tasks.core.tuning.method import TuningMethod
from tasks.exchange import emulator_bundle, tuned_bundle
from tasks.exchange.card import tuned_card
from tasks.exchange.keys import own_key_of
from tasks.exchange.ledger import Ledger
from tasks.exchange.manifest import Answer, EmulatorManifest, Manifest, TunedBlocksManifest
from tasks.exchange.names import CARD_FILE
from tasks.exchange.opening import OpenedBundle, open_emulator
from tasks.exchange.place import ExchangePlace
from tasks.exchange.received import ReceivedBundle
from tasks.exchange.receiving import private_folder
from tasks.exchange.sealing import Parties, require_room, seal
from tasks.store.artifacts import Ref, Store
from tasks.store.files import write_text


@dataclass(frozen=True)
class Errand:
    """An emulator to tune: the opened bundle, and where its tuned blocks go."""

    place: ExchangePlace
    opened: OpenedBundle
    parties: Parties
    out: Path

    @property
    def manifest(self) -> EmulatorManifest:
        """The emulator's manifest."""
        assert isinstance(self.opened.manifest, EmulatorManifest)
        return self.opened.manifest

    @property
    def bundle(self) -> ReceivedBundle:
        """The emulator as the input of a stage."""
        return ReceivedBundle(path=str(self.opened.folder), kind="emulator", digest=self.opened.digest)

    def settings(self, given: TuneSettings) -> Settings:
        """Return the settings of the run that tunes this emulator.

        Raises:
            InputError: when the model owner does not take back what these settings train, or several seeds are
                given.
        """
        if len(given.tune.seeds) > 1:
            raise InputError(f"tune.seeds = {list(given.tune.seeds)}: one tuning is sent back, so give one seed")
        require_no_password(given.place)
        tuned_bundle.require_returnable(given.tune.tuning_method, self.manifest.returns)
        plan = self.manifest.plan
        return given.for_emulator(str(self.opened.folder), plan.kept, plan.tuned)


def open_errand(bundle: Path, home: Path, out: Path) -> Errand:
    """Verify an emulator's bundle, and make its folder in the home.

    Raises:
        RefusedError: when any check of the bundle fails.
        InputError: when something is at `out`.
    """
    place = ExchangePlace.of_home(home)
    require_room(out)

    def restore(manifest: EmulatorManifest, copy: Path, folder: Path) -> None:
        emulator_bundle.restore_folder(copy, manifest, folder)

    opened = open_emulator(bundle, place, datetime.now(UTC), restore)
    own = own_key_of(place.keys, opened.manifest.recipient.fingerprint)
    return Errand(place, opened, Parties(own, opened.signer), out)


def seal_tuned(errand: Errand, store: Store, tuning: Ref, method: TuningMethod) -> TunedBlocksManifest:
    """Seal the tuned blocks of an artifact, with a card that says no more than the manifest."""
    asked = errand.manifest
    with private_folder(errand.out.absolute().parent) as files:
        tuned_bundle.write_files(store.open(tuning), files)
        reported = tuned_bundle.reported(tuning.summary)
        tuned = {WEIGHTS: asked.base.weights, "tuned blocks": ", ".join(map(str, asked.plan.tuned))}
        facts = {**tuned, "method": method.method, **reported}
        write_text(files / CARD_FILE, tuned_card(asked.base.name, asked.sender.name, facts).text())

        def describe(_: Ledger, header: dict[str, Any]) -> Manifest:
            return TunedBlocksManifest(
                **header,
                answers=Answer(id=asked.id, nonce=asked.nonce, manifest=errand.opened.digest),
                base=asked.base.weights,
                method=method.cache_view(),
                tuning=reported,
                scores={},
            )

        manifest = seal(files, errand.out, "tuned_blocks", describe, errand.parties, errand.place, datetime.now(UTC))
    assert isinstance(manifest, TunedBlocksManifest)
    return manifest
