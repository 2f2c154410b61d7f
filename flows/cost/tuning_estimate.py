"""Time and memory of a tuning, from the signed manifest of an emulator and its tokenizer, before weights are read."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.settings.exchange import TuneSettings
from flows.settings.run import Settings
from tasks.exchange import emulator_bundle, tuned_bundle
from tasks.exchange.keys import own_public_keys, trusted_keys
from tasks.exchange.manifest import EmulatorManifest
from tasks.exchange.names import TOKENIZER_FILE
from tasks.exchange.place import ExchangePlace
from tasks.exchange.receiving import copy_one, private_folder, refusing, require_recipient, verify_manifest
from tasks.exchange.tokenizer import probe_tokenizer

# Share of the measured rate of matrix products that tunings of small models reach on a CPU, where 53 to 65% were
# measured; it is as good a guess for a GPU.
UTILISATION = 0.5


@dataclass(frozen=True)
class TuningEstimate:
    """A tuning before it runs: numbers of rows and operations, seconds, and the peak of its memory in bytes."""

    num_rows: int
    flops: float
    seconds: float
    memory: float
    returned: float

    def text(self, manifest: EmulatorManifest) -> str:
        """Return the estimate as lines for a person."""
        plan = manifest.plan
        return "\n".join(
            [
                f"Emulator: {len(plan.kept)} blocks of {manifest.base.name}, {len(plan.tuned)} of them tuned",
                f"Rows:     {self.num_rows:,} to train on",
                f"Time:     about {_time(self.seconds)} on this machine ({self.flops / 1e12:,.3g} TFLOP for tuning"
                f" and scoring, at {UTILISATION:.0%} of its measured rate)",
                f"Memory:   {self.memory / 1e9:.1f} GB for the largest stage",
                f"Returned: {self.returned / 1e6:,.1f} MB",
            ]
        )


def estimate_tuning(bundle: Path, given: TuneSettings, rate: float) -> tuple[EmulatorManifest, TuningEstimate]:
    """Estimate the tuning of an emulator's bundle. rate: floating-point operations per second that are available.

    Raises:
        RefusedError: when a check of signature, manifest or tokenizer fails.
        InputError: when these settings cannot be used with the emulator.
    """
    place = ExchangePlace.of_home(Path(given.place.home))
    trusted, own = trusted_keys(place.trusted), own_public_keys(place.keys)
    with refusing(bundle), private_folder(place.verifying) as copy, private_folder(copy) as folder:
        verified = verify_manifest(bundle, copy, "emulator", trusted, datetime.now(UTC))
        require_recipient(verified, own)
        manifest = verified.manifest
        assert isinstance(manifest, EmulatorManifest), "the kind was checked"
        copy_one(bundle, copy, manifest, TOKENIZER_FILE)
        probe_tokenizer(copy / TOKENIZER_FILE)
        emulator_bundle.restore_description(copy, manifest, folder)
        tuned_bundle.require_returnable(given.tune.tuning_method, manifest.returns)
        settings = given.for_emulator(str(folder), manifest.plan.kept, manifest.plan.tuned)
        return manifest, _estimated(settings, rate)


def _estimated(settings: Settings, rate: float) -> TuningEstimate:
    """Price the stages that the data owner runs, among those of a whole run on the emulator."""
    from flows.cost.estimates import estimate_cells
    from flows.cost.needs import PROCESS_BYTES

    found = estimate_cells([({}, settings)]).by_name
    own = {name: each for name, each in found.items() if each[0].stage in ("tune", "select") or "emulator" in name}
    costs = [cost for cost, _ in own.values()]
    flops = sum(cost.flops for cost in costs)
    sizes = next(sizes for cost, sizes in own.values() if cost.stage == "tune")
    return TuningEstimate(
        num_rows=sizes.workload.train.num_rows,
        flops=flops,
        seconds=flops / (UTILISATION * rate),
        memory=PROCESS_BYTES + max(cost.memory + cost.gaps for cost in costs),
        returned=max(cost.disk for cost in costs if cost.stage == "tune"),
    )


def _time(seconds: float) -> str:
    """Return a duration in the unit that fits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
