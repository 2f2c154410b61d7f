"""The `crash` command. Exit codes: 0 ok, 2 settings or usage, 3 untrusted input refused, 4 environment (disk, network,
service), 5 training diverged, 129/130/143 signals, 1 our bug."""

import argparse
import os
import signal
import sys
from pathlib import Path

from flows.cli.exchange_parser import COMMANDS as EXCHANGE
from flows.cli.parser import make_parser
from flows.running import stopping
from flows.running.environment import read_connection, settle_interpreter
from tasks.core.errors import CrashError
from tasks.store.loopback import keep_loopback_direct


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code."""
    if arguments is None:
        settle_interpreter()
    options = parser().parse_args(arguments)
    try:
        stopping.listen()
        keep_loopback_direct(os.environ)
        code = options.run(options) or 0
    except CrashError as error:
        print(f"crash: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:
        code = 0
    except BaseException as error:
        number = _request(error)
        if number is None:
            raise
        name = signal.Signals(number).name
        print(f"crash: interrupted by {name}; run the same command to continue", file=sys.stderr)
        code = 128 + number
    stopping.ending()
    sys.exit(code)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    handlers = {"run": _run, "sweep": _sweep, "study": _study, "plan-cost": _plan_cost}
    handlers |= {"runs": _runs, "gc": _gc, "doctor": _doctor}
    return make_parser(handlers | dict.fromkeys(EXCHANGE, _exchange))


def _request(error: BaseException) -> int | None:
    """Return the signal behind an error, ours or Prefect's; None for other errors."""
    if not stopping.is_request(error):
        return None
    return getattr(error, "number", signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)


def _run(options: argparse.Namespace) -> int:
    from flows.settings.kinds import SearchSettings
    from flows.settings.reading import read_settings
    from flows.settings.run import Settings

    kind = SearchSettings if options.deployment == "search/run" else Settings
    settings = read_settings(options.settings, options.changes, kind)
    if options.pool:
        from flows.running.environment import prepare_environment
        from flows.service.submit import submit

        prepare_environment(Path(settings.place.home))
        return submit(options.deployment, settings)
    from flows.cli.launch import launch, launch_search

    return launch_search(settings) if isinstance(settings, SearchSettings) else launch(settings)


def _sweep(options: argparse.Namespace) -> int:
    from flows.settings.reading import read_sweep
    from flows.settings.run import Settings

    settings, axes = read_sweep(options.settings, options.changes, Settings)
    from flows.cli.launch import launch_sweep

    return launch_sweep(settings, axes, options.at_once, options.here)


def _study(options: argparse.Namespace) -> int:
    from flows.studies.cells import read_study

    settings, axes = read_study(options.settings, options.changes)
    if options.pool:
        from flows.running.environment import prepare_environment
        from flows.service.submit import submit

        prepare_environment(Path(settings.place.home))
        return submit("study/run", settings, axes)
    from flows.cli.launch import launch_study

    return launch_study(settings, axes)


def _plan_cost(options: argparse.Namespace) -> int:
    from flows.cost.command import choose_device, plan_cost
    from flows.cost.inputs import given_rows

    device = choose_device(options.gpu, options.tflops, options.utilisation)
    rows = given_rows(options.rows, options.tokens_per_row, options.answer_tokens)
    return plan_cost(options.settings, options.changes, rows, device, options.json, options.study)


def _runs(options: argparse.Namespace) -> int:
    os.environ |= {**read_connection(options.home), **os.environ}
    from flows.cli.listing import print_runs

    return print_runs(*_store(options), options.keys)


def _gc(options: argparse.Namespace) -> int:
    from flows.cli.listing import print_collected

    return print_collected(*_store(options), options.home, options.days, options.dry_run)


def _doctor(options: argparse.Namespace) -> int:
    from flows.cli.doctor import doctor
    from flows.cli.doctor_inputs import input_findings, pair_settings, pair_values

    changes = [
        *pair_values(options.model, options.task, options.data, options.kind),
        *(options.changes or []),
    ]
    if options.settings is None and not changes:
        os.environ |= {**read_connection(options.home), **os.environ}
        return doctor(options.home, *_store(options), None, options.verify)
    from flows.running.environment import prepare_environment
    from flows.settings.reading import read_settings

    settings = read_settings(options.settings, changes) if options.settings else pair_settings(changes, options.home)
    prepare_environment(Path(settings.place.home))
    home, store = Path(settings.place.home), (settings.store_root, settings.store_url)
    return doctor(home, *store, settings.tracking_uri, options.verify, input_findings(settings))


def _exchange(options: argparse.Namespace) -> int:
    from flows.cli import exchange

    return int(getattr(exchange, options.command.replace("-", "_"))(options))


def _store(options: argparse.Namespace) -> tuple[Path, str | None]:
    from flows.settings.run import store_place

    return store_place(options.store, options.home)


if __name__ == "__main__":
    main()
