"""The owner of the model takes tuned blocks back: verify them, and plug them in once a person has accepted."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.exchange.owner import remembered
from flows.settings.run import EmulateSettings
from tasks.artifacts.party_report import PartyReport
from tasks.core.errors import InputError, RefusedError
from tasks.core.tuning.method import TuningMethod
from tasks.exchange import emulator_bundle, tuned_bundle
from tasks.exchange.card import plugged_card
from tasks.exchange.ledger import ACCEPTED, DECLINED, Entry
from tasks.exchange.manifest import EmulatorManifest, TunedBlocksManifest
from tasks.exchange.names import CARD_FILE
from tasks.exchange.opening import Expectation, OpenedBundle, open_tuned_blocks, settle
from tasks.exchange.place import ExchangePlace
from tasks.exchange.plugging import find_replaced, plugged_bundle, write_plugged
from tasks.exchange.received import ReceivedBundle
from tasks.exchange.receiving import private_folder
from tasks.exchange.sealing import hand_over, require_room
from tasks.models.resolving import resolve_model
from tasks.models.tuned_blocks import read_returned
from tasks.reports.party import card_scores
from tasks.store.artifacts import Ref, Store
from tasks.store.digests import same_files
from tasks.store.files import write_text
from tasks.store.remote.store import open_store


@dataclass(frozen=True)
class Answered:
    """Tuned blocks that were verified, the emulator that they answer, and the settings from which that was made."""

    place: ExchangePlace
    opened: OpenedBundle
    asked: EmulatorManifest
    settings: EmulateSettings
    method: TuningMethod

    @property
    def manifest(self) -> TunedBlocksManifest:
        """The manifest of the tuned blocks."""
        assert isinstance(self.opened.manifest, TunedBlocksManifest)
        return self.opened.manifest

    @property
    def bundle(self) -> ReceivedBundle:
        """The tuned blocks as the input of a stage."""
        return ReceivedBundle(path=str(self.opened.folder), kind="tuned_blocks", digest=self.opened.digest)


def open_answer(bundle: Path, home: Path) -> Answered:
    """Verify tuned blocks that answer an emulator of this home.

    Raises:
        RefusedError: when any check fails.
        InputError: when the full model is not where it was.
    """
    place = ExchangePlace.of_home(home)
    found: list[tuple[EmulatorManifest, EmulateSettings, TuningMethod]] = []

    def expect(manifest: TunedBlocksManifest, entry: Entry) -> Expectation:
        asked, remembered_settings = remembered(place, entry.id)
        # The home of this command, not that of the time when the emulator was sealed.
        at_home = remembered_settings.place.model_copy(update={"home": str(home)})
        settings = remembered_settings.model_copy(update={"place": at_home})
        plan, method = emulator_bundle.plan_of(asked), tuned_bundle.method_of(manifest, asked.returns)
        store = open_store(settings.store_root, settings.store_url)
        model = resolve_model(settings.model.name, settings.model.revision, store)
        tuned_bundle.require_base(asked, model)
        tensors = tuned_bundle.expected_tensors(Path(model.path), plan, method)
        found.append((asked, settings, method))
        serving = tuned_bundle.serving_format(Path(model.path))
        return Expectation(tensors, lambda copy, out: tuned_bundle.restore_folder(copy, plan, method, out), serving)

    opened = open_tuned_blocks(bundle, place, datetime.now(UTC), expect)
    return Answered(place, opened, *found[-1])


def accept(answered: Answered, store: Store, plugged: Ref, out: Path, report: PartyReport) -> None:
    """Write the full model with the accepted blocks, and close the answer in the ledger. report: what its card says."""
    model = resolve_model(answered.settings.model.name, answered.settings.model.revision, store)
    replaced = find_replaced(model, read_returned(store.open(plugged)).tuned)
    manifest, kept = answered.manifest, answered.place.plugged / answered.manifest.id
    facts = {"bundle": manifest.id, "emulator": manifest.answers.id, "from": manifest.sender.name}
    with private_folder(out.absolute().parent) as folder, private_folder(answered.place.plugged) as original:
        write_plugged(model, replaced, folder, original, facts)
        card = plugged_card(answered.asked.base.name, manifest.sender.name, report["facts"], card_scores(report))
        write_text(folder / CARD_FILE, card.text())
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(original, kept)
        settle(answered.place, manifest, ACCEPTED, lambda: _hand_over_once(folder, out))


def require_place(answered: Answered, out: Path) -> None:
    """Check that the full model can be written to `out`, where a killed command may have left the same model.

    Raises:
        InputError: when something else is at `out`, or the folder around it is missing.
    """
    try:
        is_left = plugged_bundle(out) == answered.manifest.id
    except InputError:
        is_left = False
    if not is_left:
        require_room(out)


def _hand_over_once(folder: Path, out: Path) -> None:
    """Hand the plugged model over, unless a command that was killed before its entry has done so."""
    if not (out.is_dir() and not out.is_symlink() and same_files(folder, out)):
        hand_over(folder, out)


@contextmanager
def declining(answered: Answered) -> Iterator[None]:
    """Decline the answer where it is refused within the context: the emulator can be answered again."""
    try:
        yield
    except RefusedError as error:
        decline(answered)
        raise RefusedError(f"refused bundle {answered.manifest.id}: {error}") from None


def decline(answered: Answered) -> None:
    """Close the answer in the ledger as declined; the emulator can be answered again."""
    settle(answered.place, answered.manifest, DECLINED)
