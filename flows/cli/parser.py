"""The parser of the `crash` command: its subcommands, their arguments and their help."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.cli.exchange_parser import add_exchange
from flows.service.commands import HOME_HELP, add_commands, count
from tasks.store.home import default_home

DEMO = Path(__file__).parents[1] / "demo" / "settings.toml"
READY = Path(__file__).parents[1] / "tables"
SWEEP = (
    "Run every combination of what the settings give several values for, and collect the scores in one table. A list"
    " anywhere in the settings is an axis (of a setting that is a list by itself, a list of lists). Tables"
    " [[variants]], each with a name and the settings that it changes, are one axis together. tune.seeds stays inside a"
    " cell."
)
STUDY = (
    "Similarity of the blocks' states, tuned lens and distances of their predictions, importance of blocks, loss"
    " landscape, weights and data sets, on one page. Lists at model.name and task.name, or tables [[variants]], make"
    " several models and data sets side by side; study.parts chooses what is looked at."
)
COST = (
    "Operations, GPU hours, memory and disk of a run, sweep, search or study, before it starts. A file with a table"
    " `[search]` is priced as a search, with --study as a study, else as a run, or with lists as a sweep."
)
DOCTOR = (
    "Check this installation. With a settings file, or with --model and --task, also make every check of model and task"
    " that a run makes before it computes, and say what the run would do."
)
SET_HELP = "change one setting; KEY= takes it back to its default"

Commands = Any
Handlers = Mapping[str, Callable[[argparse.Namespace], int]]


def make_parser(handlers: Handlers) -> argparse.ArgumentParser:
    """Make the parser. handlers: the function that runs each subcommand, by name (`run` also for demo and search)."""
    top = argparse.ArgumentParser(
        prog="crash", description="Fine-tune a large language model without having all of it."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    whole = _add_whole(commands)
    tables = _add_tables(commands)
    exchange = add_exchange(commands)
    for command in (*whole, *tables, *exchange):
        command.add_argument("--set", dest="changes", action="append", metavar="KEY=VALUE", help=SET_HELP)
    for command in whole:
        command.add_argument("--pool", action="store_true", help="run it on the work pool, and follow it from here")
    _add_store(commands)
    for name, command in commands.choices.items():
        command.set_defaults(run=handlers["run" if name in ("demo", "search") else name])
    add_commands(commands)
    return top


def _add_whole(commands: Commands) -> list[argparse.ArgumentParser]:
    """Add the commands that run as one flow, here or on the work pool."""
    demo = commands.add_parser("demo", help="the whole method on the embedded model and task")
    demo.set_defaults(settings=DEMO, deployment="crash/demo")
    run = commands.add_parser(
        "run",
        help="the whole method on your model and task",
        epilog=_strategies(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("settings", type=Path, help="TOML file; the keys are listed in docs/reference/settings.md")
    run.set_defaults(deployment="crash/run")
    search = commands.add_parser("search", help="the best plan at the task that discloses little enough of the model")
    search.add_argument(
        "settings", type=Path, help="TOML file as for `crash run`, with the limit and lists in [search]"
    )
    search.set_defaults(deployment="search/run")
    study = commands.add_parser(
        "study", help="what a model's blocks do, which matter, where tuned models lie", description=STUDY
    )
    study.add_argument("settings", type=Path, help="TOML file as for `crash run`, with what to look at in [study]")
    return [demo, run, search, study]


def _add_tables(commands: Commands) -> list[argparse.ArgumentParser]:
    """Add the commands that start several runs, or estimate their cost."""
    sweep = commands.add_parser(
        "sweep",
        help="a grid of runs and one table: a list anywhere in the settings is an axis",
        description=SWEEP,
        epilog=f"Ready files: {', '.join(sorted(path.name for path in READY.glob('*.toml')))}.",
    )
    sweep.add_argument("settings", type=Path, help="TOML file as for `crash run`, or the name of a ready one")
    sweep.add_argument("--at-once", type=count, help="cells at a time (2 here, 16 on the work pool)")
    sweep.add_argument("--here", action="store_true", help="in this process, even if there is a work pool")
    cost = commands.add_parser(
        "plan-cost", help="operations, GPU hours, memory and disk, before anything runs", description=COST
    )
    cost.add_argument("settings", type=Path, help="TOML file as for the command whose cost it is")
    cost.add_argument("--study", action="store_true", help="price `crash study` of this file")
    cost.add_argument("--gpu", help="kind of GPU (H100)")
    cost.add_argument("--tflops", type=float, help="peak of another device, in TFLOP/s")
    cost.add_argument("--utilisation", type=float, default=0.4, help="share of the peak that is reached (0.4)")
    cost.add_argument("--rows", metavar="TRAIN,VALIDATION,SCORED", help="rows of a task that is neither here nor known")
    cost.add_argument("--tokens-per-row", type=int, help="mean tokens of its rows")
    cost.add_argument("--answer-tokens", type=int, help="mean tokens of its answers (a quarter of the row)")
    cost.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return [sweep, cost]


def _add_store(commands: Commands) -> None:
    """Add the commands that read the store, and `doctor`."""
    runs = commands.add_parser("runs", help="runs so far, their state and keys")
    runs.add_argument("--keys", action="store_true", help="also list the stages' keys")
    collect = commands.add_parser("gc", help="remove what no recent run refers to")
    collect.add_argument("--days", type=float, default=30, help="keep what runs of the last DAYS days refer to (30)")
    collect.add_argument("--dry-run", action="store_true", help="only list")
    _add_doctor(commands)
    for command in (runs, collect, commands.choices["doctor"]):
        command.add_argument("--home", default=default_home(), type=Path, help=HOME_HELP)
        command.add_argument("--store", help="folder or URL of the store, where it is not in home")


def _add_doctor(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="versions, devices, disk, servers, a model and a task, and what to do about each problem",
        description=DOCTOR,
    )
    doctor.add_argument(
        "settings", type=Path, nargs="?", help="TOML file whose model, task, places and servers are checked"
    )
    doctor.add_argument("--model", help="folder or hub id of a model to check together with a task")
    doctor.add_argument("--task", help="lm-eval task, or any name for own data, to check together with a model")
    doctor.add_argument("--data", help="folder of the task's rows (task.data)")
    doctor.add_argument("--kind", choices=("lm_eval", "text", "instructions"), help="kind of task (task.kind)")
    doctor.add_argument("--set", dest="changes", action="append", metavar="KEY=VALUE", help=SET_HELP)
    doctor.add_argument("--verify", action="store_true", help="also read every artifact and compare its digests")


def _strategies() -> str:
    """Return a line for every strategy, with its description and source."""
    from tasks.core.plan.registry import STRATEGIES

    lines = [f"  {each.name:18} {each.line} [{each.source}]" for each in STRATEGIES.values()]
    return "\n".join(["strategies, the ways to choose the emulator's blocks:", *lines])
