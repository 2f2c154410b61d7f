"""The model owner: seal an emulator for another party, and remember from what it was made."""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.exchange.surroundings import require_no_password
from flows.running.run import Run
from flows.service.submit import portable
from flows.settings.kinds import EmulateSettings
from tasks.artifacts.party_report import PartyReport
from tasks.artifacts.plan import read_plan
from tasks.core.errors import EnvironmentFault, RefusedError
from tasks.exchange import emulator_bundle
from tasks.exchange.card import emulator_card
from tasks.exchange.keys import own_key, trusted_key
from tasks.exchange.ledger import Ledger, opened
from tasks.exchange.lineage import relatives
from tasks.exchange.manifest import (
    BaseModelFacts,
    Disclosure,
    EmulatorManifest,
    Manifest,
    Returns,
    read_manifest,
    to_bytes,
)
from tasks.exchange.names import CARD_FILE, MANIFEST_FILE
from tasks.exchange.place import ExchangePlace
from tasks.exchange.plugging import require_stored
from tasks.exchange.receiving import private_folder
from tasks.exchange.sealing import Parties, require_room, seal
from tasks.reports.party import card_scores
from tasks.store.artifacts import Ref
from tasks.store.files import write_flushed, write_text

if TYPE_CHECKING:
    from tasks.core.costs.sizes import Sizes
    from tasks.core.plan.layout import Plan

SETTINGS_FILE = "settings.json"
# The scores on the card that the other party gets: neither those of held-out tasks nor those of an own tuning.
GIVEN_SCORES = ("full_zero_shot", "emulator_zero_shot")


@dataclass(frozen=True)
class Gift:
    """An emulator on its way: between whom, where it is written, and what of the model it may disclose.

    together: name by fingerprint of the recipient, and of all who may put theirs together with the recipient's.
    """

    place: ExchangePlace
    parties: Parties
    out: Path
    budget: float
    together: dict[str, str]

    def disclosure(self, ledger: Ledger, base: str, sizes: "Sizes", kept: tuple[int, ...]) -> Disclosure:
        """Return what the recipient has by this emulator, and by all so far.

        base: digest of the full model's weights. Emulators of models from which it descends, or that descend from
        these, count as its own.

        Raises:
            RefusedError: when all together would disclose more than the budget.
        """
        bases = relatives(self.place.plugged, base)
        so_far = tuple(sorted({*kept, *ledger.disclosed(bases, self.together)}))
        found = Disclosure(
            blocks=kept, share=sizes.disclosed(kept), blocks_so_far=so_far, share_so_far=sizes.disclosed(so_far)
        )
        if found.share_so_far > self.budget:
            raise RefusedError(
                f"refused to seal: this emulator discloses {found.share:.1%} of the full model, and with all so far"
                f" {self.parties.recipient.name} would have {found.share_so_far:.1%} (blocks {list(so_far)}): more than"
                f" exchange.budget = {self.budget:g}. Give the blocks of before (strategy fixed), or keep fewer"
            )
        return found


def make_gift(settings: EmulateSettings, recipient: str, out: Path, key: str | None) -> Gift:
    """Check, before anything is computed, that an emulator can be sealed for a party.

    Raises:
        InputError: when a key is missing, something is at `out`, or an address in the settings has a password.
    """
    settings.require_one_strategy()
    require_no_password(settings.place)
    place = ExchangePlace.of_home(Path(settings.place.home))
    parties = Parties(own_key(place.keys, key), trusted_key(place.trusted, recipient), settings.exchange.days)
    parties.require_current(datetime.now(UTC))
    require_room(out)
    keys = [parties.recipient, *(trusted_key(place.trusted, name) for name in settings.exchange.together)]
    return Gift(place, parties, out, settings.exchange.budget, {key.fingerprint: key.name for key in keys})


def check_disclosure(run: Run[EmulateSettings], gift: Gift, plan: "Plan") -> Disclosure:
    """Return what the emulator of a plan will disclose, before it is made.

    Raises:
        RefusedError: as `Gift.disclosure`.
        InputError: when the model cannot be described to another party, or tuned blocks could not be plugged into it.
    """
    emulator_bundle.require_describable(run.model)
    require_stored(run.model, emulator_bundle.template_of(Path(run.model.path), plan))
    with opened(gift.place.ledger) as ledger:
        return gift.disclosure(ledger, run.model.weights, sizes_of(run), plan.kept)


def seal_emulator(run: Run[EmulateSettings], gift: Gift, emulator: Ref, report: PartyReport) -> EmulatorManifest:
    """Seal the emulator of an artifact, and remember its settings. report: what its card says.

    Raises:
        RefusedError: when another emulator was sealed meanwhile, so that both would exceed the budget.
    """
    folder = run.runtime.open_store().open(emulator)
    plan, sizes, exchange = read_plan(folder, "emulator"), sizes_of(run), run.settings.exchange
    template = emulator_bundle.template_of(Path(run.model.path), plan)
    with private_folder(gift.out.absolute().parent) as files:
        parts = emulator_bundle.write_files(folder, run.model, files)
        shown = card_scores(report, GIVEN_SCORES)
        card = emulator_card(run.facts["model"], gift.parties.recipient.name, report["facts"], shown)
        write_text(files / CARD_FILE, card.text())

        def describe(ledger: Ledger, header: dict[str, Any]) -> Manifest:
            disclosure = gift.disclosure(ledger, run.model.weights, sizes, plan.kept)
            manifest = EmulatorManifest(
                **header,
                nonce=secrets.token_hex(16),
                base=BaseModelFacts(
                    name=Path(run.settings.model.name).name.encode("ascii", "replace").decode()[:256],
                    weights=run.model.weights,
                    tokenizer=run.model.tokenizer,
                    num_blocks=run.model.num_blocks,
                    num_parameters=sizes.total,
                ),
                architecture=parts.architecture,
                plan=parts.plan,
                compression=parts.compression,
                tokenizer=parts.tokenizer,
                returns=Returns(methods=exchange.methods, max_rank=exchange.max_lora_rank, template=template),
                disclosure=disclosure,
            )
            _remember(gift.place, manifest, run.settings)
            return manifest

        manifest = seal(files, gift.out, "emulator", describe, gift.parties, gift.place, datetime.now(UTC))
    assert isinstance(manifest, EmulatorManifest)
    return manifest


def sizes_of(run: Run[EmulateSettings]) -> "Sizes":
    """Return the numbers of parameters of the full model's blocks."""
    from tasks.core.costs.sizes import model_sizes
    from tasks.models.folder import load_config

    return model_sizes(load_config(Path(run.model.path)))


def remembered(place: ExchangePlace, bundle: str) -> tuple[EmulatorManifest, EmulateSettings]:
    """Return manifest and settings of an emulator that was sealed here. bundle: its id.

    Raises:
        EnvironmentFault: when they are not in this home.
    """
    folder = place.sealed / bundle
    try:
        manifest = read_manifest((folder / MANIFEST_FILE).read_bytes())
        settings = EmulateSettings.model_validate_json((folder / SETTINGS_FILE).read_bytes())
    except (OSError, ValueError, RefusedError) as error:
        raise EnvironmentFault(
            f"{folder} does not have manifest and settings of the emulator {bundle} ({type(error).__name__}): restore"
            " the folder from a copy of this home"
        ) from None
    assert isinstance(manifest, EmulatorManifest)
    return manifest, settings


def _remember(place: ExchangePlace, manifest: EmulatorManifest, settings: EmulateSettings) -> None:
    folder = place.sealed / manifest.id
    folder.mkdir(parents=True, exist_ok=True)
    write_flushed(folder / MANIFEST_FILE, to_bytes(manifest))
    write_text(folder / SETTINGS_FILE, json.dumps(portable(settings), indent=1))
