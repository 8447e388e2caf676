"""Command line: arguments to configuration to the program that was asked for, and its end to an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from ffsuper import errors
from ffsuper.commands.arguments import parse
from ffsuper.commands.exits import Exit, exit_of

__all__ = ["Exit", "main"]

# These run until they are told to end, and whoever looks into their log is to find there why they did.
SERVICES = ("running.worker", "running.engine", "running.server")

STORE_AWAY = (errors.StoreUnavailableError, errors.StoreAccessError, errors.OutcomeUnknownError)
# What a disk says that is full, and a terminal that is gone. Only what runs on writes to more than stdout.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
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
    open_missing_streams()
    options = parse(arguments)
    try:
        code = carry_out(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of our output, as in "| head", has had enough
        drop_output()
        return Exit.BROKEN_PIPE
    except BaseExceptionGroup as group:
        cause = errors.first_cause(group)
        return Exit.INTERRUPTED if isinstance(cause, KeyboardInterrupt) else told(cause, options)
    except Exception as error:  # noqa: BLE001 -- the last line of defence: nobody is shown a traceback for a mistake
        if isinstance(error, OSError) and error.errno in UNWRITABLE and not options.command.startswith("running."):
            drop_output()
            print(f"ffsuper: the output cannot be written: {error.strerror}", file=sys.stderr)
            return Exit.OUTPUT
        return told(error, options)
    else:
        if options.command in SERVICES:
            log_end(code)
        return code


def open_missing_streams() -> None:
    """Let output go nowhere where whoever started us has closed it, so that no file of ours takes its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 -- open until we end


def drop_output() -> None:
    """Let what is still buffered for stdout go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def carry_out(options: argparse.Namespace) -> Exit:
    """Do what the subcommand says. Its module is imported only now, for quick start-up."""
    module, _, function = options.command.partition(".")
    answer: Exit | bool = getattr(import_module(f"ffsuper.commands.{module}"), function)(options)
    if isinstance(answer, bool):
        return Exit.OK if answer else Exit.ENDED_OTHERWISE
    return answer


def told(error: BaseException, options: argparse.Namespace) -> Exit:
    """Tell the user what happened; return the exit code. Defects keep their traceback."""
    code = exit_of(type(error))
    if options.command in SERVICES and not sys.stderr.isatty():
        log_end(code or Exit.DEFECT, error, what_then(error, options))
        return code or Exit.DEFECT
    if code is None:
        traceback.print_exception(error)
        print("ffsuper: this should not happen: please report it with the lines above", file=sys.stderr)
        return Exit.DEFECT
    from ffsuper.commands.texts import harmless

    problems = getattr(error, "problems", None) or [str(error)]
    for text in filter(None, [*problems, what_then(error, options)]):
        print(f"ffsuper: {harmless(text)}", file=sys.stderr)
    return code


def log_end(code: Exit, error: BaseException | None = None, then: str = "") -> None:
    """Have the end of a service logged."""
    from ffsuper import logs

    logs.log_end(code, code.name.lower().replace("_", " "), error, then, is_defect=code is Exit.DEFECT)


def what_then(error: BaseException, options: argparse.Namespace) -> str:
    """Say what to do, where the error itself does not; else nothing."""
    if isinstance(error, errors.OutcomeUnknownError) and options.command not in SERVICES:
        return "it may have been carried out: look, before you repeat it"
    if isinstance(error, errors.StoreUnavailableError | errors.StoreAccessError) and "store" in options:
        return where_store_is(error, options)
    if isinstance(error, STORE_AWAY) and options.command in SERVICES:
        return where_service_store_is(error, options)
    return WHAT_THEN.get(error.code, "") if isinstance(error, errors.RefusedError) else ""


def where_service_store_is(error: BaseException, options: argparse.Namespace) -> str:
    """Say which store a service wanted; the embedded one's errors say all."""
    from ffsuper import config_loader

    try:
        url = config_loader.load(options.config, os.environ, needs_handlers=False).config.store.url
    except errors.ConfigError:  # it was another one when the service began
        return ""
    if url == "embedded":
        return ""
    if isinstance(error, errors.StoreAccessError):
        return f"[store] url is {url}: check user, password and certificates in [store], and what the user may do"
    return f"[store] url is {url}: start that store, or mend [store]"


def where_store_is(error: BaseException, options: argparse.Namespace) -> str:
    """Say which store a subcommand wanted, and how to name another; nothing where it wanted a server."""
    if options.server is not None:
        return ""
    from ffsuper.commands.places import store_settings

    url = store_settings(options).url
    if isinstance(error, errors.StoreAccessError):
        names = "--config, or $FFSUPER_STORE_USERNAME and $FFSUPER_STORE_PASSWORD_FILE"
        return f"the store is at {url}: who we are there, and the password, are to come from {names}"
    return f"the store is to be at {url}: start it, or name another by --store, --config or $FFSUPER_STORE_URL"
