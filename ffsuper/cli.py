"""Command line: arguments to configuration to the program that was asked for. Exit codes live here."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib import import_module

from ffsuper import errors
from ffsuper.commands.arguments import parse


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
        return told(errors.first_cause(group))
    except Exception as error:  # noqa: BLE001 -- the last line of defence: nobody is shown a traceback for a mistake
        return told(error)
    else:
        return code


def carry_out(options: argparse.Namespace) -> Exit:
    """Do what the subcommand says. Its module is imported only now, for quick start-up."""
    module, _, function = options.command.partition(".")
    answer: Exit | bool = getattr(import_module(f"ffsuper.commands.{module}"), function)(options)
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
