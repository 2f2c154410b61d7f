"""The model owner takes tuned blocks back: verify them, and plug them in once a person has accepted."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.exchange.owner import remembered
from flows.settings.kinds import EmulateSettings
from tasks.artifacts.party_report import PartyReport
from tasks.core.errors import InputError, RefusedError
from tasks.core.tuning.method import TuningMethod
from tasks.exchange import emulator_bundle, tuned_bundle
from tasks.exchange.card import plugged_card
from tasks.exchange.ledger_entry import ACCEPTED, DECLINED, Entry
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


def open_answers(bundles: Sequence[Path], home: Path) -> list[Answered]:
    """Verify tuned blocks that answer emulators of this home: all of them, or none.

    Raises:
        RefusedError: when any check of one fails, or two are not of the same blocks of one model, or of one party.
        InputError: when the full model is not where it was.
    """
    place = ExchangePlace.of_home(home)
    found: list[tuple[TunedBlocksManifest, EmulatorManifest, EmulateSettings, TuningMethod]] = []

    def expect(manifest: TunedBlocksManifest, entry: Entry) -> Expectation:
        asked, remembered_settings = remembered(place, entry.id)
        # The home of this command, not that of the time when the emulator was sealed.
        at_home = remembered_settings.place.model_copy(update={"home": str(home)})
        settings = remembered_settings.model_copy(update={"place": at_home})
        plan, method = emulator_bundle.plan_of(asked), tuned_bundle.method_of(manifest, asked.returns)
        for other, other_asked, _, _ in found:
            require_mergeable(manifest, asked, other, other_asked)
        store = open_store(settings.store_root, settings.store_url)
        model = resolve_model(settings.model.name, settings.model.revision, store)
        tuned_bundle.require_base(asked, model)
        tensors = tuned_bundle.expected_tensors(Path(model.path), plan, method)
        found.append((manifest, asked, settings, method))
        serving = tuned_bundle.serving_format(Path(model.path))
        return Expectation(tensors, lambda copy, out: tuned_bundle.restore_folder(copy, plan, method, out), serving)

    opened = open_tuned_blocks(bundles, place, datetime.now(UTC), expect)
    return [
        Answered(place, each, asked, settings, method)
        for each, (_, asked, settings, method) in zip(opened, found, strict=True)
    ]


def require_mergeable(
    manifest: TunedBlocksManifest, asked: EmulatorManifest, other: TunedBlocksManifest, other_asked: EmulatorManifest
) -> None:
    """Check that two answers can be merged. asked, other_asked: the emulators that they answer.

    Raises:
        RefusedError: when one party sent both, or the emulators have other tuned blocks or are of other models.
    """
    if manifest.id == other.id:
        raise RefusedError("the same bundle is given twice")
    # By the name too: a party may have got a new key.
    if manifest.sender.fingerprint == other.sender.fingerprint or manifest.sender.name == other.sender.name:
        raise RefusedError(f"{manifest.sender.name} sent another one of these bundles; each party counts once")
    if asked.base.weights != other_asked.base.weights:
        raise RefusedError(f"it belongs to another full model than the bundle of {other.sender.name}")
    if asked.plan.tuned != other_asked.plan.tuned:
        raise RefusedError(
            f"it has the tuned blocks {list(asked.plan.tuned)}, and that of {other.sender.name}"
            f" {list(other_asked.plan.tuned)}: only tunings of the same blocks can be merged"
        )


def accept(answers: Sequence[Answered], store: Store, plugged: Ref, out: Path, report: PartyReport) -> None:
    """Write the full model with the accepted blocks, and close all answers in the ledger in one transaction.

    report: what its card says.
    """
    first = answers[0]
    model = resolve_model(first.settings.model.name, first.settings.model.revision, store)
    replaced = find_replaced(model, read_returned(store.open(plugged)).tuned)
    manifests = [each.manifest for each in answers]
    facts = plugged_facts(manifests)
    kept = first.place.plugged / facts["bundle"]
    with private_folder(out.absolute().parent) as folder, private_folder(first.place.plugged) as original:
        write_plugged(model, replaced, folder, original, facts)
        card = plugged_card(first.asked.base.name, facts["from"], report["facts"], card_scores(report))
        write_text(folder / CARD_FILE, card.text())
        # A command that was killed before its entry may have handed it over; compared while the ledger is free.
        is_there = out.is_dir() and not out.is_symlink() and same_files(folder, out)

        def publish() -> None:
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(original, kept)
            if not is_there:
                hand_over(folder, out)

        settle(first.place, manifests, ACCEPTED, publish)


def plugged_facts(manifests: Sequence[TunedBlocksManifest]) -> dict[str, str]:
    """Return what a plugged folder says of its bundles.

    `bundle` is the id of one, and of several the start of a digest of all ids.
    """
    ids = [manifest.id for manifest in manifests]
    bundle = ids[0] if len(ids) == 1 else hashlib.sha256(" ".join(sorted(ids)).encode()).hexdigest()[:32]
    facts = {
        "bundle": bundle,
        "emulator": " ".join(manifest.answers.id for manifest in manifests),
        "from": ", ".join(manifest.sender.name for manifest in manifests),
    }
    return facts if len(ids) == 1 else {**facts, "merged": " ".join(ids)}


def require_place(answers: Sequence[Answered], out: Path) -> None:
    """Check that the full model can be written to `out`, where a killed command may have left the same model.

    Raises:
        InputError: when something else is at `out`, or the folder around it is missing.
    """
    try:
        is_left = plugged_bundle(out) == plugged_facts([each.manifest for each in answers])["bundle"]
    except InputError:
        is_left = False
    if not is_left:
        require_room(out)


@contextmanager
def declining(answered: Answered) -> Iterator[None]:
    """Decline the answer where it is refused, or cannot be used, within the context.

    The emulator can be answered again.

    Raises:
        RefusedError: in the place of errors about the input: this one is a stranger's.
    """
    try:
        yield
    except (RefusedError, InputError) as error:
        decline([answered])
        manifest = answered.manifest
        raise RefusedError(f"refused bundle {manifest.id} from {manifest.sender.name}: {error}") from None


def decline(answers: Sequence[Answered]) -> None:
    """Close all answers in the ledger as declined; their emulators can be answered again."""
    settle(answers[0].place, [each.manifest for each in answers], DECLINED)
