"""The commands `up`, `down`, `deploy`, `worker` and `reap` of the command line."""

import argparse
from pathlib import Path
from typing import Any

from tasks.store.home import default_home

HOME_HELP = "folder of the store, the servers' data and the logs (.crash)"


def add_commands(commands: Any) -> None:
    """Add the commands up, down, deploy, worker and reap."""
    up = commands.add_parser("up", help="start database, Prefect, MLflow, and a worker on this machine")
    up.add_argument("--host", help="address to listen on (127.0.0.1); another one needs --auth")
    up.add_argument("--auth", action="store_true", default=None, help="user and password for both servers")
    up.add_argument("--sqlite", action="store_const", const="sqlite", dest="database", help="without PostgreSQL")
    up.add_argument("--prefect-port", type=int, help="port of the Prefect server (4200; 0: any)")
    up.add_argument("--mlflow-port", type=int, help="port of the MLflow server (5000; 0: any)")
    up.add_argument("--limit", type=count, help="runs at once on this machine (one for each GPU)")
    up.add_argument("--no-worker", action="store_true", help="servers only")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="stop what `crash up` started")
    down.set_defaults(run=_down)
    deploy = commands.add_parser("deploy", help="create or update work pool and deployments on a Prefect server")
    deploy.add_argument("--type", default="process", choices=("process", "docker", "kubernetes"), help="(process)")
    deploy.add_argument("--concurrency", type=count, help="runs at once in the whole pool (no limit)")
    deploy.set_defaults(run=_deploy)
    worker = commands.add_parser("worker", help="take runs from the pool on this machine")
    worker.add_argument("--type", default="process", choices=("process", "docker", "kubernetes"), help="(process)")
    worker.add_argument("--limit", type=count, help="runs at once (process: one for each GPU; other types: no limit)")
    worker.add_argument("--queue", help="work queue (process: default, sweeps wait in `sweeps`; other types: all)")
    worker.add_argument("--name", help="name in the Prefect UI (this host's)")
    worker.set_defaults(run=_worker)
    reap = commands.add_parser("reap", help="mark runs whose process is gone as crashed, and schedule them again")
    reap.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    reap.set_defaults(run=_reap)
    for command in (deploy, worker, reap):
        command.add_argument("--pool", default="gpu", help="work pool (gpu)")
    for command in (up, down, deploy, worker, reap):
        command.add_argument("--home", default=None, type=Path, help=HOME_HELP)


def count(text: str) -> int:
    """Parse a count, at least 1, from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _up(options: argparse.Namespace) -> int:
    from flows.service.up import UpOptions, up

    chosen = UpOptions(
        host=options.host,
        prefect_port=options.prefect_port,
        mlflow_port=options.mlflow_port,
        auth=options.auth,
        database=options.database,
        worker_limit=options.limit,
        with_worker=not options.no_worker,
    )
    return up(_home(options), chosen)


def _down(options: argparse.Namespace) -> int:
    from flows.service.up import down

    return down(_home(options))


def _deploy(options: argparse.Namespace) -> int:
    from flows.running.environment import prepare_environment

    prepare_environment(_home(options))
    from flows.service.deploy import deploy

    return deploy(options.pool, options.type, options.concurrency)


def _worker(options: argparse.Namespace) -> int:
    from flows.service.worker import worker

    return worker(_home(options), options.pool, options.type, options.queue, options.limit, options.name)


def _reap(options: argparse.Namespace) -> int:
    from flows.running.environment import prepare_environment

    prepare_environment(_home(options))
    from flows.service.reaper import reap

    return reap(options.pool, once=options.once)


def _home(options: argparse.Namespace) -> Path:
    return options.home or default_home()
