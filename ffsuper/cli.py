"""Command line: arguments to configuration to the program that was asked for. Exit codes live here."""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from pathlib import Path

from ffsuper import errors
from ffsuper.arguments import parse


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
    (errors.WorkerNotFoundError, Exit.NOT_FOUND),
    (errors.RefusedError, Exit.INPUT),
    (errors.StoreAccessError, Exit.STORE_ACCESS),
    (errors.StoreUnsuitableError, Exit.STORE_UNSUITABLE),
    (errors.StoreUnavailableError, Exit.STORE_UNAVAILABLE),
    (errors.OutcomeUnknownError, Exit.STORE_UNAVAILABLE),
    (errors.FfsuperError, Exit.DEFECT),
    (ValueError, Exit.INPUT),
    (TimeoutError, Exit.ENDED_OTHERWISE),
)

# Of refusals, by their code.
WHAT_THEN = {
    "execution_not_found": "it was never submitted here, or has been deleted some time after its end",
    "execution_not_terminal": "it has not ended yet: wait for that with ffsuper result ID --wait, or cancel it first",
    "execution_not_active": "it has ended already: see ffsuper show ID",
    "execution_not_suspended": "it waits for no signal: see ffsuper show ID",
    "max_replays_exhausted": "its policy's max_replay_count allows no more: submit it anew",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    options = parse(arguments)
    try:
        code = carry_out(options)
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


def carry_out(options: argparse.Namespace) -> Exit:
    """Do what the subcommand says. Its module is imported only now, for quick start-up."""
    answer: Exit | bool = pkgutil.resolve_name(f"ffsuper.{options.command}")(options)
    if isinstance(answer, bool):
        return Exit.OK if answer else Exit.ENDED_OTHERWISE
    return answer


def told(error: BaseException) -> int:
    """Tell the user what happened; return the exit code. Defects keep their traceback."""
    for kind, code in EXITS:
        if isinstance(error, kind):
            for line in getattr(error, "problems", None) or [str(error)]:
                print(f"ffsuper: {line}", file=sys.stderr)
            if then := what_then(error):
                print(f"ffsuper: {then}", file=sys.stderr)
            return code
    raise error


def what_then(error: BaseException) -> str:
    """Say what to do, where the error itself does not; else nothing."""
    if isinstance(error, errors.OutcomeUnknownError):
        return "it may have been carried out: look, before you repeat it"
    return WHAT_THEN.get(error.code, "") if isinstance(error, errors.RefusedError) else ""


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended a nursery: the first that is no mere consequence."""
    for error in group.exceptions:
        return first_cause(error) if isinstance(error, BaseExceptionGroup) else error
    return group


def run_worker(options: argparse.Namespace) -> Exit:
    """Run the worker."""
    import trio

    from ffsuper import config_loader, logs, supervisor
    from ffsuper.config import Config
    from ffsuper.store import embedded
    from ffsuper.store.store import prepare
    from ffsuper.systemd import Notifier

    settings = config_loader.load(options.config, os.environ).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:

        def read_again() -> Config:
            again = config_loader.load(options.config, os.environ).config
            return replace(again, store=store) if again.store == settings.store else again

        counts = prepare(store, embedded.new_counts(settings.store))
        running = replace(settings, store=store)
        ending = trio.run(supervisor.run, running, counts, read_again, Notifier(os.environ))
    return Exit.HANDED_BACK if ending is supervisor.Ending.HANDED_BACK else Exit.OK


def run_dev(options: argparse.Namespace) -> Exit:
    """Run a worker that is restarted when its handlers change."""
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


def run_engine(options: argparse.Namespace) -> Exit:
    """Run an engine."""
    import trio

    from ffsuper import config_loader, engine_supervisor, logs
    from ffsuper.store import embedded
    from ffsuper.store.store import prepare
    from ffsuper.systemd import Notifier

    settings = config_loader.load(options.config, os.environ, needs_handlers=False).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:
        counts = prepare(store, embedded.new_counts(settings.store))
        trio.run(engine_supervisor.run, replace(settings, store=store), counts, Notifier(os.environ))
    return Exit.OK


def run_server(options: argparse.Namespace) -> Exit:
    """Run the HTTP server."""
    import trio

    from ffsuper import config_loader, errors, logs
    from ffsuper.store import embedded
    from ffsuper.store.store import prepare
    from ffsuper.systemd import Notifier

    try:
        from ffsuper import server_supervisor
    except ImportError as error:
        missing = f"ffsuper server needs {error.name}: pip install 'ffsuper[server]'"
        raise errors.ConfigError([missing]) from None
    settings = config_loader.load(options.config, os.environ, needs_handlers=False).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:
        counts = prepare(store, embedded.new_counts(settings.store), thoroughly=True)
        trio.run(server_supervisor.run, replace(settings, store=store), counts, Notifier(os.environ))
    return Exit.OK
