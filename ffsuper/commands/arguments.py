"""The grammar of the command line: subcommands, their options and help. Quick to import: tab completion needs it too.

``command`` of the parsed options is the function that carries the subcommand out, as ``module.function`` of ffsuper.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ffsuper.commands.examples import EXAMPLES
from ffsuper.commands.parsing import Commands, Parser, complaint, subcommands_of

# How the root help lists the subcommands.
GROUPS = {
    "run": ("dev", "engine", "server", "check"),
    "submit and look": ("submit", "show", "list", "result", "tail", "signal", "cancel"),
    "operate": ("workers", "lanes", "top", "quiet", "resume", "drain", "replay", "library"),
    "shell": ("completion",),
}
# Commands of these modules look at what a server does not tell.
STORE_ONLY = ("watching.", "top.", "checking.")
SERVER_HELP = (
    "or a server, as in http://127.0.0.1:9090",
    "the server's token (default: the file $FFSUPER_SERVER_TOKEN_FILE)",
    "certificates to trust, for https (default: the system's)",
)
SHORTEST_INTERVAL_S = 0.1
HIGHEST_PRIORITY = 9000
SHELLS = ("bash", "zsh", "fish")
# Indexes of a lane, as ``store.submissions`` names them.
STATES = (
    *("eligible", "delayed", "active", "suspended", "terminal"),
    *("blocked:dependencies", "blocked:budget", "blocked:quota", "blocked:route", "blocked:operator"),
)
NOTHING_TO_DO = """\
ffsuper: nothing to do: to run the worker, name its configuration, as in: ffsuper --config worker.toml
ffsuper: to try handlers out: ffsuper dev jobs.py; for all the rest: ffsuper --help
"""
USAGE = 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options on the command line; a wrong one, a call for help and tab completion end the program."""
    root = parser()
    if "_ARGCOMPLETE" in os.environ:
        from ffsuper.commands import completion

        completion.complete(root)
    options, strange = root.parse_known_args(arguments)
    chosen = subcommands_of(root).get(options.subcommand, root)
    if strange:
        chosen.error(complaint(strange, chosen))
    if options.subcommand is None and options.config is None:
        root.exit(USAGE, NOTHING_TO_DO)
    if told := mistake(options):
        chosen.error(told)
    return options


def mistake(options: argparse.Namespace) -> str | None:
    """Return what is wrong with options that do not go together; None when nothing is."""
    if options.subcommand == "dev" and bool(options.handlers) == (options.config is not None):
        return "dev needs either handlers (files or modules) or --config FILE; see ffsuper dev --help"
    return place_mistake(options) if "server" in options else None


def parser() -> Parser:
    """Return the parser of the whole command line; ``command`` holds the function to call."""
    root = Parser(
        prog="ffsuper", usage="ffsuper --config FILE\n       ffsuper COMMAND [OPTION ...]", epilog=EXAMPLES[""]
    )
    root.add_argument("--version", action=Version, nargs=0, help="say which version this is, and of what, and exit")
    root.add_argument("--config", type=Path, metavar="FILE", help="worker.toml; without a subcommand: run the worker")
    root.set_defaults(command="running.worker")
    commands = root.add_subparsers(prog="ffsuper", dest="subcommand", metavar="COMMAND", help=argparse.SUPPRESS)
    add_running(commands)
    add_submit(commands)
    add_looking(commands)
    add_signal(commands)
    add_operating(commands)
    completion = subcommand(commands, "completion", "print the script for tab completion", "completion.write_script")
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
    groups = [listed(commands, group) for group in GROUPS]
    root.description = "\n\n".join(["Run Python work that must not get lost.", *groups])
    return root


def listed(commands: Commands[Parser], group: str) -> str:
    """Return a group of subcommands for the root help."""
    lines = [f"  {name:12}{commands.choices[name].description}" for name in GROUPS[group]]
    return "\n".join([f"{group}:", *lines])


class Version(argparse.Action):
    """Prints versions and exits; asks for them only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """See ``argparse.Action``."""
        from ffsuper.commands import checking

        checking.print_versions()
        parser.exit()


def subcommand(commands: Commands[Parser], name: str, summary: str, command: str) -> Parser:
    """Add a subcommand.

    Args:
        command: the function that carries it out, as ``module.function``; it takes the options, and returns an Exit,
            or False for ENDED_OTHERWISE.
    """
    added = commands.add_parser(name, help=summary, description=summary, epilog=EXAMPLES.get(name))
    added.set_defaults(command=command)
    return added


def store_subcommand(commands: Commands[Parser], name: str, summary: str, command: str) -> Parser:
    """Add a subcommand that talks to the store, or to a server, and prints JSON if asked."""
    added = subcommand(commands, name, summary, command)
    added.add_argument(
        "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="store settings from here"
    )
    place = added.add_mutually_exclusive_group()
    place.add_argument("--store", metavar="URL", help="or the store itself (default: $FFSUPER_STORE_URL, localhost)")
    # What a server does not do refuses these with a reason, so it takes them, and hides them.
    url, token, ca = [argparse.SUPPRESS] * 3 if command.startswith(STORE_ONLY) else SERVER_HELP
    place.add_argument("--server", metavar="URL", help=url)
    added.add_argument("--server-token-file", type=Path, metavar="FILE", help=token)
    added.add_argument("--server-ca-file", type=Path, metavar="FILE", help=ca)
    added.add_argument("--json", action="store_true", help="machine-readable output")
    return added


def add_running(commands: Commands[Parser]) -> None:
    """Add the subcommands of group ``run``."""
    dev = subcommand(
        commands, "dev", "try handlers out: store, engine and worker in one, reloading changes", "running.try_out"
    )
    dev.add_argument("handlers", nargs="*", metavar="HANDLERS", help="files or modules with the handlers")
    dev.add_argument("--config", type=Path, metavar="FILE", help="or a worker.toml of your own")
    dev.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        default=Path("ffsuper-dev"),
        help="where it keeps its store (default: ffsuper-dev)",
    )
    engine = subcommand(commands, "engine", "run the sweeps that make time pass, and no handlers", "running.engine")
    engine.add_argument(
        "--config", type=Path, metavar="FILE", required=True, help="settings; handlers are not needed"
    )
    server = subcommand(commands, "server", "offer scheduling and executions over HTTP", "running.server")
    server.add_argument(
        "--config", type=Path, metavar="FILE", required=True, help="settings; handlers are not needed"
    )
    check = subcommand(commands, "check", "validate a configuration and print what it comes to", "checking.check")
    check.add_argument("--config", type=Path, metavar="FILE", required=True, help="the worker.toml to look at")
    check.add_argument(
        "--unit", metavar="UNIT", help="systemd unit that starts it, by name or file (default: the installed that do)"
    )
    check.add_argument("--offline", action="store_true", help="leave out what needs the store, or a server")
    check.add_argument("--json", action="store_true", help="machine-readable output")


def add_looking(commands: Commands[Parser]) -> None:
    """Add the subcommands that look at executions, and the one that ends them."""
    show = store_subcommand(commands, "show", "print one execution with its attempts", "executions.show")
    add_execution(show)
    listing = store_subcommand(commands, "list", "list executions of a lane", "executions.list_lane")
    listing.add_argument("--lane", default="default", help="of this lane (default: default)")
    listing.add_argument(
        "--state",
        default="eligible",
        choices=STATES,
        metavar="STATE",
        help=f"{', '.join(STATES)} (default: eligible)",
    )
    listing.add_argument("--limit", type=positive, default=20, metavar="N", help="so many at the most (default: 20)")
    result = store_subcommand(commands, "result", "write an execution's result to stdout", "executions.result")
    add_execution(result)
    result.add_argument("--wait", type=seconds, metavar="SECONDS", help="wait for it to end, so long at the most")
    tail = store_subcommand(commands, "tail", "write what an execution emits, as it comes", "executions.tail")
    add_execution(tail)
    tail.add_argument("--no-follow", dest="follow", action="store_false", help="stop at what there is")
    cancel = store_subcommand(commands, "cancel", "cancel an execution, whatever its state", "executions.cancel")
    add_execution(cancel)
    cancel.add_argument("--reason", default="cancelled by operator", metavar="TEXT", help="kept with the execution")


def add_execution(added: Parser) -> None:
    """Add the id of an execution."""
    added.add_argument("execution", metavar="ID", help="the execution, as submit or list print it")


def add_operating(commands: Commands[Parser]) -> None:
    """Add the subcommands of group ``operate``."""
    store_subcommand(commands, "workers", "list workers, what they run and have done", "watching.workers")
    lanes = store_subcommand(commands, "lanes", "count what waits and runs in each lane", "watching.lanes")
    lanes.add_argument("--lane", help="this one only (default: all that workers have ever served)")
    top = store_subcommand(commands, "top", "watch lanes, workers and what they run; q ends it", "top.run")
    top.add_argument(
        "--interval", type=interval, default=2.0, metavar="SECONDS", help="between two looks (default: 2)"
    )
    top.add_argument("--once", action="store_true", help="look twice, print once, and end")
    for order, summary in (
        ("quiet", "tell a worker to claim no more, and to finish what it runs"),
        ("resume", "tell a worker that is quiet to claim again"),
        ("drain", "tell a worker to claim no more, to finish what it runs, and to end"),
    ):
        told = store_subcommand(commands, order, summary, f"watching.{order}")
        told.add_argument("instance", metavar="INSTANCE", help="its instance id, as ffsuper workers shows it")
        told.add_argument("--wait", type=seconds, metavar="SECONDS", help="wait until it has, so long at the most")
    replay = store_subcommand(commands, "replay", "let an execution that has ended run again", "executions.replay")
    add_execution(replay)
    library = store_subcommand(
        commands, "library", "say which function libraries a store has loaded", "checking.library"
    )
    library.add_argument("--load", action="store_true", help="load ours, in place of other versions of them")


def add_signal(commands: Commands[Parser]) -> None:
    """Add ``signal``."""
    signal = store_subcommand(commands, "signal", "send a signal to a suspended execution", "executions.signal")
    add_execution(signal)
    signal.add_argument("name", metavar="NAME", help="what the execution waits for")
    signal.add_argument("payload", nargs="?", default="", metavar="PAYLOAD", help=PAYLOAD)
    signal.add_argument("--waitpoint", default="", metavar="ID", help="another one than the execution's current")
    signal.add_argument("--token-file", type=Path, metavar="FILE", help="the waitpoint's token (default: look it up)")
    signal.add_argument("--idempotency-key", default="", metavar="KEY", help="send it once under this key")
    signal.add_argument("--source", default="", metavar="WHO", help="who sends it")


PAYLOAD = "JSON text, @FILE, or - for standard input, as it is"


def add_submit(commands: Commands[Parser]) -> None:
    """Add ``submit``."""
    submit = store_subcommand(commands, "submit", "submit an execution and print its id", "executions.submit")
    submit.add_argument("kind", metavar="KIND", help="what a handler is registered for")
    submit.add_argument("payload", nargs="?", default="", metavar="PAYLOAD", help=PAYLOAD)
    submit.add_argument("--lane", default="default", help="where it waits for a worker (default: default)")
    submit.add_argument("--namespace", default="default", help="whose it is (default: default)")
    submit.add_argument("--priority", type=priority, default=0, metavar="0..9000", help="higher first (default: 0)")
    submit.add_argument("--delay", type=seconds, metavar="SECONDS", help="do not start before")
    submit.add_argument("--idempotency-key", default="", metavar="KEY", help="submit once under this key within 24 h")
    submit.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    submit.add_argument(
        "--policy", default="", metavar="JSON", help='for instance {"retry_policy": {"max_retries": 3}}'
    )
    submit.add_argument("--wait", type=seconds, metavar="SECONDS", help="wait for the end and print the result")


def place_mistake(options: argparse.Namespace) -> str | None:
    """Return what is wrong with the options that say where executions are; None when nothing is."""
    if options.server is not None:
        if options.command.startswith(STORE_ONLY):
            return f"argument --server: {options.subcommand} needs the store itself: name it by --store or --config"
        return None if options.config is None else "argument --server: not allowed with argument --config"
    for name in ("server_token_file", "server_ca_file"):
        if getattr(options, name) is not None:
            return f"argument --{name.replace('_', '-')}: needs argument --server"
    return None


def positive(text: str) -> int:
    """Read a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def priority(text: str) -> int:
    """Read an execution's priority."""
    number = int(text)
    if not 0 <= number <= HIGHEST_PRIORITY:
        raise argparse.ArgumentTypeError(f"must be from 0 to {HIGHEST_PRIORITY}")
    return number


def seconds(text: str) -> float:
    """Read a span of time."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def interval(text: str) -> float:
    """Read the time between two looks at everything, which cost the store something."""
    number = seconds(text)
    if number < SHORTEST_INTERVAL_S:
        raise argparse.ArgumentTypeError(f"must be {SHORTEST_INTERVAL_S} or more")
    return number
