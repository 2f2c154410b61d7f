"""The `crash` command. Exit codes: 0 ok, 2 settings or usage, 3 untrusted input refused, 4 environment (disk, network,
service), 5 training diverged, 130/143 signals, 1 our bug."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from flows.environment import read_connection
from flows.service.commands import HOME_HELP, add_commands, count
from tasks.core.errors import CrashError, InterruptedRun
from tasks.store.home import default_home

DEMO = Path(__file__).parent / "demo" / "settings.toml"


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = options.run(options) or 0
    except CrashError as error:
        print(f"crash: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("crash: interrupted; run the same command to continue", file=sys.stderr)
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        code = 0
    sys.exit(code)


READY = Path(__file__).parent / "tables"
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
SET_HELP = "change one setting; KEY= takes it back to its default"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="crash", description="Fine-tune a large language model without having all of it."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="the whole method on the embedded model and task")
    demo.set_defaults(run=_run, settings=DEMO, deployment="crash/demo")
    run = commands.add_parser(
        "run",
        help="the whole method on your model and task",
        epilog=_strategies(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("settings", type=Path, help="TOML file; the keys are listed in the README")
    run.set_defaults(run=_run, deployment="crash/run")
    sweep = commands.add_parser(
        "sweep",
        help="a grid of runs and one table: a list anywhere in the settings is an axis",
        description=SWEEP,
        epilog=f"Ready files: {', '.join(sorted(path.name for path in READY.glob('*.toml')))}.",
    )
    sweep.add_argument("settings", type=Path, help="TOML file as for `crash run`, or the name of a ready one")
    sweep.add_argument("--at-once", type=count, help="cells at a time (2 here, 16 on the work pool)")
    sweep.add_argument("--here", action="store_true", help="in this process, even if there is a work pool")
    sweep.set_defaults(run=_sweep)
    cost = commands.add_parser(
        "plan-cost", help="operations, GPU hours, memory and disk of a run or sweep, before it runs"
    )
    cost.add_argument("settings", type=Path, help="TOML file as for `crash run` or `crash sweep`")
    cost.add_argument("--gpu", help="kind of GPU (H100)")
    cost.add_argument("--tflops", type=float, help="peak of another device, in TFLOP/s")
    cost.add_argument("--utilisation", type=float, default=0.4, help="share of the peak that is reached (0.4)")
    cost.add_argument("--rows", metavar="TRAIN,VALIDATION,SCORED", help="rows of a task that is neither here nor known")
    cost.add_argument("--tokens-per-row", type=int, help="mean tokens of its rows")
    cost.add_argument("--answer-tokens", type=int, help="mean tokens of its answers (a quarter of the row)")
    cost.add_argument("--json", action="store_true", help="print JSON instead of a table")
    cost.set_defaults(run=_plan_cost)
    search = commands.add_parser("search", help="the best plan at the task that discloses little enough of the model")
    search.add_argument(
        "settings", type=Path, help="TOML file as for `crash run`, with the limit and lists in [search]"
    )
    search.set_defaults(run=_run, deployment="search/run")
    study = commands.add_parser(
        "study", help="what a model's blocks do, which matter, where tuned models lie", description=STUDY
    )
    study.add_argument("settings", type=Path, help="TOML file as for `crash run`, with what to look at in [study]")
    study.set_defaults(run=_study)
    for command in (demo, run, sweep, cost, search, study):
        command.add_argument("--set", dest="changes", action="append", metavar="KEY=VALUE", help=SET_HELP)
    for command in (demo, run, search, study):
        command.add_argument("--pool", action="store_true", help="run it on the work pool, and follow it from here")
    runs = commands.add_parser("runs", help="runs so far, their state and keys")
    runs.add_argument("--keys", action="store_true", help="also list the stages' keys")
    runs.set_defaults(run=_runs)
    collect = commands.add_parser("gc", help="remove what no recent run refers to")
    collect.add_argument("--days", type=float, default=30, help="keep what runs of the last DAYS days refer to (30)")
    collect.add_argument("--dry-run", action="store_true", help="only list")
    collect.set_defaults(run=_gc)
    doctor = commands.add_parser("doctor", help="versions, devices, disk, servers, and what to do about each problem")
    doctor.add_argument("settings", type=Path, nargs="?", help="TOML file whose places and servers are looked at")
    doctor.add_argument("--verify", action="store_true", help="also read every artifact and compare its digests")
    doctor.set_defaults(run=_doctor)
    for command in (runs, collect, doctor):
        command.add_argument("--home", default=default_home(), type=Path, help=HOME_HELP)
        command.add_argument("--store", help="folder or URL of the store, where it is not in home")
    add_commands(commands)
    return top


def _strategies() -> str:
    """Every strategy with its line and its source."""
    from tasks.core.strategies import STRATEGIES

    lines = [f"  {each.name:18} {each.line} [{each.source}]" for each in STRATEGIES.values()]
    return "\n".join(["strategies, the ways to choose the emulator's blocks:", *lines])


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise InterruptedRun("interrupted by SIGTERM; run the same command to continue", number)


def _run(options: argparse.Namespace) -> int:
    from flows.reading import read_settings

    settings = read_settings(options.settings, options.changes)
    if options.pool:
        from flows.environment import prepare_environment
        from flows.service.submit import submit

        prepare_environment(Path(settings.place.home))
        return submit(options.deployment, settings)
    from flows.launch import launch, launch_search

    return (launch_search if options.deployment == "search/run" else launch)(settings)


def _sweep(options: argparse.Namespace) -> int:
    from flows.reading import read_sweep

    settings, axes = read_sweep(options.settings, options.changes)
    from flows.launch import launch_sweep

    return launch_sweep(settings, axes, options.at_once, options.here)


def _study(options: argparse.Namespace) -> int:
    from flows.reading import read_study

    settings, axes = read_study(options.settings, options.changes)
    if options.pool:
        from flows.environment import prepare_environment
        from flows.service.submit import submit

        prepare_environment(Path(settings.place.home))
        return submit("study/run", settings, axes)
    from flows.launch import launch_study

    return launch_study(settings, axes)


def _plan_cost(options: argparse.Namespace) -> int:
    from flows.cost import choose_device, plan_cost
    from flows.cost_inputs import given_rows

    device = choose_device(options.gpu, options.tflops, options.utilisation)
    rows = given_rows(options.rows, options.tokens_per_row, options.answer_tokens)
    return plan_cost(options.settings, options.changes, rows, device, options.json)


def _runs(options: argparse.Namespace) -> int:
    os.environ |= {**read_connection(options.home), **os.environ}
    from flows.listing import print_runs

    return print_runs(*_store(options), options.keys)


def _gc(options: argparse.Namespace) -> int:
    from flows.listing import print_collected

    return print_collected(*_store(options), options.days, options.dry_run)


def _doctor(options: argparse.Namespace) -> int:
    from flows.doctor import doctor

    if options.settings is None:
        return doctor(options.home, *_store(options), None, options.verify)
    from flows.reading import read_settings

    settings = read_settings(options.settings)
    home, store = Path(settings.place.home), (settings.store_root, settings.store_url)
    return doctor(home, *store, settings.tracking_uri, options.verify)


def _store(options: argparse.Namespace) -> tuple[Path, str | None]:
    from flows.settings import store_place

    return store_place(options.store, options.home)


if __name__ == "__main__":
    main()
