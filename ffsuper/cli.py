"""Command line: arguments to configuration to the program that was asked for. Exit codes live here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import IntEnum
from importlib.metadata import version
from pathlib import Path

from ffsuper import errors


class Exit(IntEnum):
    """What the program's exit code tells; see docs/operations.md.

    Numbers from 64 follow sysexits.h where it has a fitting one.
    """

    OK = 0
    USAGE = 2
    INPUT = 65
    NOT_FOUND = 66
    STORE_UNAVAILABLE = 69
    DEFECT = 70
    STORE_UNSUITABLE = 76
    STORE_ACCESS = 77
    CONFIG = 78
    HANDED_BACK = 79
    FENCED = 80
    INSTANCE_TAKEN = 81
    CHILDREN = 82
    ENDED_OTHERWISE = 83
    INTERRUPTED = 130
    BROKEN_PIPE = 141


# The first class that fits decides.
EXITS: tuple[tuple[type[BaseException], Exit], ...] = (
    (errors.ConfigError, Exit.CONFIG),
    (errors.HandlersError, Exit.CONFIG),
    (errors.InstanceTakenError, Exit.INSTANCE_TAKEN),
    (errors.FencedError, Exit.FENCED),
    (errors.ChildError, Exit.CHILDREN),
    (errors.ExecutionNotFoundError, Exit.NOT_FOUND),
    (errors.RefusedError, Exit.INPUT),
    (errors.StoreAccessError, Exit.STORE_ACCESS),
    (errors.StoreUnsuitableError, Exit.STORE_UNSUITABLE),
    (errors.StoreUnavailableError, Exit.STORE_UNAVAILABLE),
    (errors.OutcomeUnknownError, Exit.STORE_UNAVAILABLE),
    (errors.FfsuperError, Exit.DEFECT),
    (ValueError, Exit.INPUT),
    (TimeoutError, Exit.ENDED_OTHERWISE),
)

EPILOG = """\
examples:
  ffsuper --config worker.toml                  run the worker until SIGTERM, then drain
  ffsuper dev jobs.py                           try handlers out; changes are taken over at once
  ffsuper check --config worker.toml            say what is wrong with a configuration, and what it comes to
  ffsuper submit thumbnail '{"url": "a.png"}' --config worker.toml
  ffsuper submit import @data.csv --lane bulk --delay 3600 --store redis://localhost
  ffsuper show '{fp:86}:0b1f...' --json         one execution with its attempts
  ffsuper list --server https://ff.example.org  from a server, without access to its store
"""


DEV_EPILOG = """\
examples:
  ffsuper dev jobs.py                           handlers in a file
  ffsuper dev app.jobs app.reports              modules, imported from the current folder
  ffsuper dev --config worker.toml              with lanes, limits and a store of your own
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    options = parser().parse_args(arguments)
    try:
        code = int(options.command(options))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, as in "| head", has had enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except BaseExceptionGroup as group:
        return told(first_cause(group))
    except Exception as error:  # noqa: BLE001 -- the last line of defence: nobody is shown a traceback for a mistake
        return told(error)
    else:
        return code


def told(error: BaseException) -> int:
    """Tell the user what happened; return the exit code. Defects keep their traceback."""
    for kind, code in EXITS:
        if isinstance(error, kind):
            for line in getattr(error, "problems", None) or [str(error)]:
                print(f"ffsuper: {line}", file=sys.stderr)
            return code
    raise error


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended a nursery: the first that is no mere consequence."""
    for error in group.exceptions:
        return first_cause(error) if isinstance(error, BaseExceptionGroup) else error
    return group


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; ``command`` holds the function to call."""
    root = argparse.ArgumentParser(
        prog="ffsuper",
        description="Run Python work that must not get lost.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"ffsuper {version('ffsuper')}")
    root.add_argument("--config", type=Path, metavar="FILE", help="worker.toml; without a subcommand: run the worker")
    root.set_defaults(command=run_worker)
    commands = root.add_subparsers(title="subcommands", metavar="")
    check = subcommand(commands, "check", "validate a configuration and print what it comes to", check_config)
    check.add_argument("--config", type=Path, metavar="FILE", required=True)
    engine = subcommand(commands, "engine", "run the sweeps that make time pass, and no handlers", run_engine)
    engine.add_argument("--config", type=Path, metavar="FILE", required=True)
    server = subcommand(commands, "server", "offer scheduling and executions over HTTP", run_server)
    server.add_argument("--config", type=Path, metavar="FILE", required=True)
    add_dev(commands)
    add_submit(commands)
    show = store_subcommand(commands, "show", "print one execution with its attempts", call_client("show"))
    show.add_argument("execution", metavar="ID")
    result = store_subcommand(commands, "result", "write an execution's result to stdout", call_client("result"))
    result.add_argument("execution", metavar="ID")
    result.add_argument("--wait", type=float, metavar="SECONDS", help="wait for it to end, so long at the most")
    cancel = store_subcommand(commands, "cancel", "cancel an execution, whatever its state", call_client("cancel"))
    cancel.add_argument("execution", metavar="ID")
    cancel.add_argument("--reason", default="cancelled by operator")
    add_signal(commands)
    tail = store_subcommand(commands, "tail", "write what an execution emits, as it comes", call_client("tail"))
    tail.add_argument("execution", metavar="ID")
    tail.add_argument("--no-follow", dest="follow", action="store_false", help="stop at what there is")
    listing = store_subcommand(commands, "list", "list executions of a lane", call_client("list_lane"))
    listing.add_argument("--lane", default="default")
    listing.add_argument(
        "--state",
        default="eligible",
        metavar="INDEX",
        help="eligible, delayed, active, suspended, terminal, blocked:route, ... (default: eligible)",
    )
    listing.add_argument("--limit", type=positive, default=20, metavar="N")
    return root


Commands = argparse._SubParsersAction  # argparse has no public name for it


def subcommand(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    summary: str,
    command: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add a subcommand."""
    added = commands.add_parser(name, help=summary, description=summary)
    added.set_defaults(command=command)
    return added


def store_subcommand(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    summary: str,
    command: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add a subcommand that talks to the store, or to a server, and prints JSON if asked."""
    added = subcommand(commands, name, summary, command)
    added.add_argument(
        "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="store settings from here"
    )
    place = added.add_mutually_exclusive_group()
    place.add_argument("--store", metavar="URL", help="or the store itself (default: $FFSUPER_STORE_URL, localhost)")
    place.add_argument("--server", metavar="URL", help="or a server, as in http://127.0.0.1:9090")
    added.add_argument(
        "--server-token-file", type=Path, metavar="FILE", help="the server's token (default: $FFSUPER_SERVER_TOKEN)"
    )
    added.add_argument(
        "--server-ca-file", type=Path, metavar="FILE", help="certificates to trust, for https (default: the system's)"
    )
    added.add_argument("--json", action="store_true", help="machine-readable output")
    return added


def add_dev(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``dev``."""
    dev = subcommand(commands, "dev", "try handlers out: store, engine and worker in one, reloading changes", run_dev)
    dev.formatter_class = argparse.RawDescriptionHelpFormatter
    dev.epilog = DEV_EPILOG
    dev.add_argument("handlers", nargs="*", metavar="HANDLERS", help="files or modules with the handlers")
    dev.add_argument("--config", type=Path, metavar="FILE", help="or a worker.toml of your own")
    dev.add_argument("--data-dir", type=Path, metavar="DIR", default=Path("ffsuper-dev"), help="default: ffsuper-dev")


def add_signal(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``signal``."""
    signal = store_subcommand(commands, "signal", "send a signal to a suspended execution", call_client("signal"))
    signal.add_argument("execution", metavar="ID")
    signal.add_argument("name", help="what the execution waits for")
    signal.add_argument("payload", nargs="?", default="", help="JSON text, @FILE, or - for standard input, as it is")
    signal.add_argument("--waitpoint", default="", metavar="ID", help="another one than the execution's current")
    signal.add_argument("--token-file", type=Path, metavar="FILE", help="the waitpoint's token (default: look it up)")
    signal.add_argument("--idempotency-key", default="", metavar="KEY", help="send it once under this key")
    signal.add_argument("--source", default="", metavar="WHO", help="who sends it")


def add_submit(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add ``submit``."""
    submit = store_subcommand(commands, "submit", "submit an execution and print its id", call_client("submit"))
    submit.add_argument("kind", help="what a handler is registered for")
    submit.add_argument("payload", nargs="?", default="", help="JSON text, @FILE, or - for standard input, as it is")
    submit.add_argument("--lane", default="default")
    submit.add_argument("--namespace", default="default")
    submit.add_argument("--priority", type=int, default=0, metavar="0..9000")
    submit.add_argument("--delay", type=float, metavar="SECONDS", help="do not start before")
    submit.add_argument("--idempotency-key", default="", metavar="KEY", help="submit once under this key within 24 h")
    submit.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    submit.add_argument(
        "--policy", default="", metavar="JSON", help='for instance {"retry_policy": {"max_retries": 3}}'
    )
    submit.add_argument("--wait", type=float, metavar="SECONDS", help="wait for the end and print the result")


def positive(text: str) -> int:
    """Read a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def run_worker(options: argparse.Namespace) -> int:
    """Run the worker."""
    if options.config is None:
        parser().error("--config FILE is needed to run the worker; see --help for the subcommands")
    import trio

    from ffsuper import config_loader, logs, supervisor
    from ffsuper.store import embedded
    from ffsuper.store.store import prepare

    settings = config_loader.load(options.config, os.environ).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:
        counts = prepare(store, embedded.new_counts(settings.store))
        ending = trio.run(supervisor.run, replace(settings, store=store), counts)
    return Exit.HANDED_BACK if ending is supervisor.Ending.HANDED_BACK else Exit.OK


def run_dev(options: argparse.Namespace) -> int:
    """Run a worker that is restarted when its handlers change."""
    if bool(options.handlers) == (options.config is not None):
        parser().error("dev needs either handlers (files or modules) or --config FILE; see ffsuper dev --help")
    import trio

    from ffsuper import config_loader, dev, logs
    from ffsuper.store import embedded

    data_dir = None
    if options.config is None:
        data_dir = options.data_dir.absolute()
        handlers = dev.handlers_of(options.handlers, Path.cwd())
        worker_toml, watched = dev.write_worker_toml(handlers, data_dir), handlers.folders
    else:
        worker_toml = options.config
    settings = config_loader.load(worker_toml, os.environ).config
    if options.config is not None:
        watched = [*(settings.worker.python_path or [Path.cwd()]), worker_toml.absolute()]
    logs.set_up(settings.log)
    meanings = {code.value: code.name.lower().replace("_", " ") for code in Exit}
    with embedded.reachable(settings.store) as store:
        dev.welcome(store.url, watched, data_dir)
        trio.run(dev.run, worker_toml, watched, settings.drain.timeout_s, meanings)
    return Exit.OK


def run_engine(options: argparse.Namespace) -> int:
    """Run an engine."""
    import trio

    from ffsuper import config_loader, engine_supervisor, logs
    from ffsuper.store import embedded
    from ffsuper.store.store import prepare

    settings = config_loader.load(options.config, os.environ, needs_handlers=False).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:
        counts = prepare(store, embedded.new_counts(settings.store))
        trio.run(engine_supervisor.run, replace(settings, store=store), counts)
    return Exit.OK


def run_server(options: argparse.Namespace) -> int:
    """Run the HTTP server."""
    import trio

    from ffsuper import config_loader, errors, logs
    from ffsuper.store import embedded
    from ffsuper.store.store import prepare

    try:
        from ffsuper import server_supervisor
    except ImportError as error:
        missing = f"ffsuper server needs {error.name}: pip install 'ffsuper[server]'"
        raise errors.ConfigError([missing]) from None
    settings = config_loader.load(options.config, os.environ, needs_handlers=False).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:
        counts = prepare(store, embedded.new_counts(settings.store), thoroughly=True)
        trio.run(server_supervisor.run, replace(settings, store=store), counts)
    return Exit.OK


def check_config(options: argparse.Namespace) -> int:
    """Print the effective configuration."""
    from ffsuper import commands

    commands.check(options.config)
    return Exit.OK


def call_client(name: str) -> Callable[[argparse.Namespace], int]:
    """Return the command that runs ``commands.<name>``; imported only when it is called, for quick start-up."""

    def command(options: argparse.Namespace) -> int:
        if mistake := place_mistake(options):
            parser().error(mistake)
        from ffsuper import commands

        function: Callable[[argparse.Namespace], bool] = getattr(commands, name)
        return Exit.OK if function(options) else Exit.ENDED_OTHERWISE

    return command


def place_mistake(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the options that say where executions are; None when nothing is."""
    if options.server is not None:
        return None if options.config is None else "argument --server: not allowed with argument --config"
    for name in ("server_token_file", "server_ca_file"):
        if getattr(options, name) is not None:
            return f"argument --{name.replace('_', '-')}: needs argument --server"
    return None
