"""Show emulators, tuned blocks and plugged models in MLflow: their cards and facts, and where they are."""

import logging
from collections.abc import Mapping
from pathlib import Path

from flows.exchange.facts import WEIGHTS
from flows.running.run import Run, open_tracking
from flows.settings.kinds import EmulateSettings
from tasks.exchange.manifest import EmulatorManifest, TunedBlocksManifest
from tasks.exchange.names import CARD_FILE
from tasks.tracking.tracking import Tracking

logger = logging.getLogger(__name__)


def log_emulator(tracking: Tracking, manifest: EmulatorManifest, out: Path) -> None:
    """Show a sealed emulator. out: its bundle, with the card."""
    facts = {
        "kept blocks": " ".join(map(str, manifest.plan.kept)),
        "tuned blocks": " ".join(map(str, manifest.plan.tuned)),
        "disclosed": manifest.disclosure.share,
        WEIGHTS: manifest.base.weights,
    }
    _log(tracking, manifest.id, f"emulator for {manifest.recipient.name}", "emulator", facts, out)


def log_tuned_blocks(tracking: Tracking, manifest: TunedBlocksManifest, out: Path) -> None:
    """Show sealed tuned blocks. out: their bundle, with the card."""
    facts = {**manifest.tuning, "emulator": manifest.answers.id, WEIGHTS: manifest.base}
    _log(tracking, manifest.id, f"tuned blocks for {manifest.recipient.name}", "tuned blocks", facts, out)


def log_plugged(run: Run[EmulateSettings], facts: Mapping[str, str], out: Path) -> None:
    """Show an accepted model of a run whose records are closed.

    facts: `admission.plugged_facts`; out: its folder, with the card.
    """
    tracking = open_tracking(run.settings, run.runtime.run_id)
    _log(tracking, facts["bundle"], f"model with blocks from {facts['from']}", "plugged model", facts, out)
    tracking.deliver()


def _log(tracking: Tracking, bundle: str, name: str, kind: str, facts: Mapping[str, object], out: Path) -> None:
    try:
        card = (out / CARD_FILE).read_text()
        tracking.model(f"{kind} {bundle}", name, kind, card, {"bundle": bundle, **facts}, out)
    except OSError as error:
        # What was sealed or accepted stays so.
        logger.warning("%s is not shown in MLflow (%s)", out, error.strerror)
