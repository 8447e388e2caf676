"""What the program's exit codes tell, and which error ends it with which."""

from __future__ import annotations

from enum import IntEnum

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
    OUTPUT = 74
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


def exit_of(kind: type[BaseException]) -> Exit | None:
    """Return the code of a program that such an error ends; None where there is none: it is a defect."""
    return next((code for known, code in EXITS if issubclass(kind, known)), None)
