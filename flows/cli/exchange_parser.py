"""The commands of the exchange between two parties, their arguments and their help."""

import argparse
from pathlib import Path
from typing import Any

from flows.service.commands import HOME_HELP, count
from tasks.core.merging.method import LEFT_OUT, MERGES
from tasks.store.home import default_home

Commands = Any
COMMANDS = ("keys", "audit", "emulate", "tune", "plug-in", "unplug", "bundle", "ledger")


def add_exchange(commands: Commands) -> list[argparse.ArgumentParser]:
    """Add the commands of the exchange; return those that take `--set`."""
    audit = commands.add_parser(
        "audit", help="how much of the model comes back when the blocks that an emulator hides are filled in"
    )
    audit.add_argument("settings", type=Path, help="TOML file as for `crash run`, with what to fill in in [audit]")
    emulate = commands.add_parser("emulate", help="make an emulator and seal it for another party")
    emulate.add_argument("settings", type=Path, help="TOML file as for `crash run`, with limits in [exchange]")
    emulate.add_argument("--to", required=True, metavar="NAME", help="the party, whose key is trusted here")
    tune = commands.add_parser("tune", help="tune an emulator that another party has sealed, on your own rows")
    tune.add_argument("bundle", type=Path, help="folder that came from the model owner")
    tune.add_argument("settings", type=Path, help="TOML file with [task], and perhaps [tune], [evaluate] and [place]")
    tune.add_argument(
        "--canaries",
        type=count,
        default=0,
        metavar="NUMBER",
        help="tune once more with NUMBER random rows among the training rows, and report how well the tuned blocks give"
        " them away",
    )
    for command, what in ((emulate, "the emulator's bundle"), (tune, "the bundle that goes back")):
        command.add_argument(
            "--out", type=Path, required=command is emulate, help=f"folder of {what}, which must not exist"
        )
    tune.add_argument(
        "--estimate", action="store_true", help="say time and memory from the signed manifest, and tune nothing"
    )
    emulate.add_argument("--key", metavar="NAME", help="own key that signs, where there are several")
    _add_plug_in(commands)
    _add_keys(commands)
    _add_bundle(commands)
    ledger = commands.add_parser("ledger", help="bundles that were sealed and received here")
    ledger.add_argument("--json", action="store_true", help="print JSON instead of a table")
    for name in ("plug-in", "unplug", "ledger"):
        commands.choices[name].add_argument("--home", default=default_home(), type=Path, help=HOME_HELP)
    return [audit, emulate, tune]


def _add_plug_in(commands: Commands) -> None:
    plug_in = commands.add_parser(
        "plug-in", help="verify tuned blocks that came back, and plug them into the full model"
    )
    plug_in.add_argument(
        "bundles",
        type=Path,
        nargs="+",
        metavar="BUNDLE",
        help="folder that came back from the data owner; of several owners, their folders",
    )
    plug_in.add_argument("--out", type=Path, required=True, help="folder of the plugged model, which must not exist")
    decision = plug_in.add_mutually_exclusive_group()
    decision.add_argument("--accept", action="store_true", help="accept without asking")
    decision.add_argument(
        "--decline", action="store_true", help="decline without asking; the emulator can be answered again"
    )
    plug_in.add_argument("--merge", choices=MERGES, help="method that merges several bundles")
    plug_in.add_argument(
        "--weights",
        type=_numbers,
        default=(),
        metavar="A,B,...",
        help="of --merge mean, a number for each bundle, such as its rows",
    )
    plug_in.add_argument(
        "--trim",
        type=float,
        metavar="SHARE",
        help="share that is left out: of the values at each end of every parameter (trimmed-mean, default"
        f" {LEFT_OUT['trimmed-mean']}), of the smallest changes of each bundle (ties, default {LEFT_OUT['ties']})",
    )
    unplug = commands.add_parser("unplug", help="put the original blocks back into a plugged model")
    unplug.add_argument("model", type=Path, help="folder that `crash plug-in` wrote")


def _numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them; argparse names the option where it fails."""
    return tuple(float(part) for part in text.split(","))


def _add_keys(commands: Commands) -> None:
    keys = commands.add_parser("keys", help="own keys, and keys of other parties")
    actions = keys.add_subparsers(required=True, metavar="ACTION", dest="action")
    new = actions.add_parser("new", help="make a key; the public half is written into this folder")
    new.add_argument("--name", required=True, help="name of this party, as others will see it")
    trust = actions.add_parser("trust", help="trust another party's public key, after comparing its fingerprint")
    trust.add_argument("file", type=Path, help="NAME.pub, from the other party")
    show = actions.add_parser("show", help="own keys and trusted ones, with their fingerprints")
    for action in (new, trust, show):
        action.add_argument("--home", default=default_home(), type=Path, help=HOME_HELP)


def _add_bundle(commands: Commands) -> None:
    bundle = commands.add_parser("bundle", help="look at a bundle, verify it, or compare two")
    actions = bundle.add_subparsers(required=True, metavar="ACTION", dest="action")
    show = actions.add_parser("show", help="the manifest of a bundle whose signature is right")
    verify = actions.add_parser("verify", help="signature, manifest, digests and values of a bundle; nothing is kept")
    diff = actions.add_parser("diff", help="the fields in which two manifests differ")
    for action in (show, verify):
        action.add_argument("bundle", type=Path, help="folder of the bundle")
    diff.add_argument("bundle", type=Path, nargs=2, help="folders of two bundles")
    for action in (show, verify, diff):
        action.add_argument("--home", default=default_home(), type=Path, help=HOME_HELP)
