"""The `crash` command. Exit codes: 0 ok, 2 settings or usage, 3 untrusted input refused, 4 environment (disk, network,
service), 5 training diverged, 130/143 signals, 1 our bug."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from tasks.core.errors import CrashError, InterruptedRun

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


SET_HELP = "change one setting; KEY= takes it back to its default"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="crash", description="Fine-tune a large language model without having all of it."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="the whole method on the embedded model and task")
    demo.set_defaults(run=_run, settings=DEMO)
    run = commands.add_parser("run", help="the whole method on your model and task")
    run.add_argument("settings", type=Path, help="TOML file; the keys are listed in the README")
    run.set_defaults(run=_run)
    for command in (demo, run):
        command.add_argument("--set", dest="changes", action="append", metavar="KEY=VALUE", help=SET_HELP)
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
        command.add_argument("--home", default=".crash", type=Path, help="folder of the store and the logs (.crash)")
        command.add_argument("--store", help="folder or URL of the store, where it is not in home")
    return top


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise InterruptedRun("interrupted by SIGTERM; run the same command to continue", number)


def _run(options: argparse.Namespace) -> int:
    from flows.reading import read_settings

    settings = read_settings(options.settings, options.changes)
    from flows.launch import launch

    return launch(settings)


def _runs(options: argparse.Namespace) -> int:
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
    return doctor(home, *store, settings.place.mlflow, options.verify)


def _store(options: argparse.Namespace) -> tuple[Path, str | None]:
    from flows.settings import store_place

    return store_place(options.store, options.home)


if __name__ == "__main__":
    main()
