"""Run the commands of the exchange: each checks what it can before anything is computed, and says what it did."""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts.audit import AUDIT_PICTURE
from tasks.core.errors import InputError, in_table
from tasks.core.merging.method import MERGES, Merging
from tasks.exchange.keys import PUBLIC, PublicKey, grouped, new_key, own_public_keys, trust, trusted_keys
from tasks.exchange.place import ExchangePlace
from tasks.store.files import replace_file

if TYPE_CHECKING:
    from flows.settings.exchange import TuneSettings


def keys(options: argparse.Namespace) -> int:
    """Make a key, trust one, or list them."""
    place = ExchangePlace.of_home(options.home)
    if options.action == "new":
        file = Path(f"{options.name}{PUBLIC}")
        if file.exists():
            raise InputError(f"{file} is here already: go to another folder, or remove it")
        key = new_key(options.name, place.keys, datetime.now(UTC))
        replace_file(file, key.to_json())
        _print_key(key, f"private key: {place.keys / options.name}.key (never give it away)")
        print(f"public key:  {file} (give it to the other party, and compare the fingerprint by telephone)")
    elif options.action == "trust":
        _print_key(
            trust(options.file, place.trusted), "trusted from now on, if its party reads out the same fingerprint"
        )
    else:
        for what, found in (("own", own_public_keys(place.keys)), ("trusted", trusted_keys(place.trusted))):
            for key in found:
                _print_key(key, f"{what}, until {key.expires:%Y-%m-%d}")
    return 0


def _print_key(key: PublicKey, what: str) -> None:
    print(f"{key.name}: {grouped(key.fingerprint)}\n  {what}")


def audit(options: argparse.Namespace) -> int:
    """Fill in the blocks that an emulator hides, and report how much of the model comes back."""
    from flows.cli.launch import finish, prepare, start
    from flows.running.inputs import prepare_inputs
    from flows.running.pass_limits import audit_limits
    from flows.settings.kinds import AuditSettings
    from flows.settings.reading import read_settings

    settings = read_settings(options.settings, options.changes, AuditSettings)
    prepare(settings.place)
    settings.require_hidden(prepare_inputs(settings, limits=audit_limits).model.num_blocks)
    begun = time.monotonic()
    from flows.audit import audit as flow

    start(settings)
    finish(settings, flow(settings), begun, shown=AUDIT_PICTURE)
    return 0


def emulate(options: argparse.Namespace) -> int:
    """Make an emulator and seal it for another party."""
    from flows.cli.launch import finish, prepare, start
    from flows.exchange.owner import make_gift
    from flows.exchange.surroundings import require_own_tracking
    from flows.running.inputs import prepare_inputs
    from flows.running.pass_limits import emulate_limits
    from flows.settings.kinds import EmulateSettings
    from flows.settings.reading import read_settings

    settings = read_settings(options.settings, options.changes, EmulateSettings)
    require_own_tracking(settings.place)
    prepare(settings.place)
    make_gift(settings, options.to, options.out, options.key)
    prepare_inputs(settings, limits=emulate_limits)
    begun = time.monotonic()
    from flows.emulate import emulate as flow

    start(settings)
    finish(settings, flow(settings, options.to, str(options.out), options.key), begun)
    print(f"Bundle:  {options.out} (send it to {options.to}; `crash bundle show {options.out}` says what it holds)")
    return 0


def tune(options: argparse.Namespace) -> int:
    """Tune an emulator that another party has sealed."""
    from flows.cli.launch import finish, prepare, start
    from flows.exchange.data_owner import open_errand
    from flows.exchange.surroundings import require_own_tracking
    from flows.running.inputs import prepare_inputs
    from flows.running.pass_limits import tune_limits
    from flows.settings.exchange import TuneSettings
    from flows.settings.reading import read_party_settings

    given = read_party_settings(options.settings, options.changes, TuneSettings)
    require_own_tracking(given.place)
    prepare(given.place)
    if options.estimate:
        if options.canaries or options.out:
            raise InputError("--estimate tunes nothing: leave out --canaries and --out")
        return _estimate(options.bundle, given)
    if options.out is None:
        raise InputError("give --out, a folder for what goes back; or --estimate, to tune nothing")
    errand = open_errand(options.bundle, Path(given.place.home), options.out)
    settings = errand.settings(given)
    print(f"Verified: an emulator from {errand.manifest.sender.name}, sequence {errand.manifest.sequence}")
    prepare_inputs(settings, limits=tune_limits)
    begun = time.monotonic()
    from flows.tune import tune as flow

    start(settings)
    finish(settings, flow(given, str(options.bundle), str(options.out), options.canaries), begun)
    print(f"Bundle:  {options.out} (send it to {errand.manifest.sender.name})")
    return 0


def _estimate(bundle: Path, given: "TuneSettings") -> int:
    """Print time and memory of a tuning that is not started."""
    from flows.cost.tuning_estimate import estimate_tuning
    from tasks.engine.precision import faster_format, machine_rates
    from tasks.engine.resources import visible_gpus

    rates = machine_rates(Path(given.place.home))
    precision = faster_format(rates) if given.model.precision == "auto" else given.model.precision
    # Without a GPU, that of one core.
    rate = rates[precision] * (1 if visible_gpus() else given.place.cores_per_stage)
    manifest, found = estimate_tuning(bundle, given, rate)
    print(found.text(manifest))
    return 0


def plug_in(options: argparse.Namespace) -> int:
    """Verify tuned blocks that came back, and plug them in once accepted."""
    from flows.cli.launch import finish, prepare, start
    from flows.exchange.admission import open_answers, require_place
    from flows.exchange.surroundings import require_own_tracking
    from flows.running.inputs import prepare_inputs
    from flows.running.pass_limits import plug_in_limits

    merging = _merging(options)
    answers = open_answers(options.bundles, options.home)
    settings = answers[0].settings
    require_place(answers, options.out)
    require_own_tracking(settings.place)
    prepare(settings.place)
    for each in answers:
        print(f"Verified: tuned blocks from {each.manifest.sender.name}, sequence {each.manifest.sequence}")
    prepare_inputs(settings, limits=plug_in_limits)
    begun = time.monotonic()
    from flows.exchange.approval import asking
    from flows.plug_in import plug_in as flow

    start(settings)
    said = True if options.accept else False if options.decline else None
    bundles = [str(each) for each in options.bundles]
    with asking(lambda _, table: _ask(table, said)):
        report, decision = flow(bundles, str(options.out), str(options.home), merging)
    finish(settings, report, begun, show_table=said is not None)
    if decision is None:
        print("Nothing was plugged in: run the same command with --accept or --decline")
    elif decision:
        print(f"Model:   {options.out} (`crash unplug {options.out}` takes the tuned blocks out again)")
    else:
        print("Declined: nothing was plugged in, and the emulator can be answered again")
    return 0


def _merging(options: argparse.Namespace) -> Merging | None:
    """Return how several bundles are merged; None for one."""
    if len(options.bundles) == 1:
        if options.merge or options.weights or options.trim is not None:
            raise InputError("--merge, --weights and --trim are for several bundles, and one is given")
        return None
    if not options.merge:
        raise InputError(f"{len(options.bundles)} bundles: give --merge and one of {', '.join(MERGES)}")
    with in_table("", merge="--merge", weights="--weights", trim="--trim"):
        merging = Merging(options.merge, options.weights, options.trim)
        merging.require_fits(len(options.bundles))
    return merging


def _ask(table: str, said: bool | None) -> bool | None:
    """Show the table to a person and return the answer; None without a terminal."""
    if said is not None:
        return said
    print(f"\n{table}")
    if not sys.stdin.isatty():
        return None
    try:
        answer = input("Plug these blocks into the full model? [y/N] ").strip().lower()
    except EOFError:
        return None
    return answer in ("y", "yes") or None


def unplug(options: argparse.Namespace) -> int:
    """Put the original blocks back into a plugged model."""
    from tasks.exchange import plugging
    from tasks.models.resolving import resolve_model

    bundle = plugging.plugged_bundle(options.model)
    plugging.unplug(options.model, ExchangePlace.of_home(options.home).plugged / bundle)
    print(f"{options.model} is the model of before: weights {resolve_model(str(options.model)).weights}")
    return 0


def bundle(options: argparse.Namespace) -> int:
    """Look at bundles."""
    from flows.exchange.bundles import compare, show, verify

    place = ExchangePlace.of_home(options.home)
    if options.action == "diff":
        print(compare(options.bundle, place))
    else:
        print(show(options.bundle, place) if options.action == "show" else verify(options.bundle, place))
    return 0


def ledger(options: argparse.Namespace) -> int:
    """List the entries of the ledger."""
    from flows.exchange.bundles import described_entries, entries_table

    found = described_entries(ExchangePlace.of_home(options.home))
    print(json.dumps(found, indent=1) if options.json else entries_table(found))
    return 0
