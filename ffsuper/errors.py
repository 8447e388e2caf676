"""Every exception of ffsuper, one tree.

A class exists because some handler treats it apart. Its docstring says whose fault it is and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class FfsuperError(Exception):
    """Root of all errors that ffsuper raises on purpose."""


class ConfigError(FfsuperError):
    """The operator's: settings are wrong; mend the named places and start again.

    Attributes:
        problems: one sentence a mistake, each naming its place.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with one setting.

    Attributes:
        item: which part of the value: ``[2]`` of a list, ``.NAME`` of a table; empty for all of it.
        depends_on: other settings of the section without which this would be no mistake.
    """

    key: str
    text: str
    item: str = ""
    depends_on: tuple[str, ...] = ()


class SectionError(ConfigError):
    """The operator's: settings of one section are wrong. The loader adds where each value came from.

    Attributes:
        mistakes: at least one.
    """

    def __init__(self, section: str, mistakes: Sequence[Mistake]) -> None:
        super().__init__([f"[{section}] {mistake.key}{mistake.item}: {mistake.text}" for mistake in mistakes])
        self.mistakes = tuple(mistakes)


class StoreError(FfsuperError):
    """A call to the store did not do what was asked."""


class StoreUnavailableError(StoreError):
    """The store's or the network's: the call was certainly not carried out; wait and repeat it."""


class OutcomeUnknownError(StoreError):
    """The network's: the call was sent and its answer lost, so it may have been carried out.

    Read the execution back and compare before repeating anything.
    """


class StoreAccessError(StoreError):
    """The operator's: the store refuses our user, password or certificate, or we its own. Repeating does not help."""


class StoreUnsuitableError(StoreError):
    """The operator's: the server has no functions, or holds a library that we do not speak."""


class LibraryMissingError(StoreUnavailableError):
    """The store lacks a function. A library that was lost (empty failover, flush) is loaded again where we own it."""


class StoreScriptError(StoreError):
    """A function stopped with a runtime error: corrupt keys, or a defect. Nobody should repeat it blindly."""


class WrongTypeError(StoreScriptError):
    """Whoever writes into the store's: a key holds another type of value than it should. Others may be sound."""


class UnreadableReplyError(StoreScriptError):
    """The store's, or a defect: what came back is not what should come. The call may have been carried out."""


class RefusedError(StoreError):
    """A function answered with a refusal code; nothing was written.

    Attributes:
        code: the protocol's error code, for instance ``stale_lease``.
        details: what came with it, as text.
    """

    def __init__(self, function: str, code: str, details: tuple[str, ...] = ()) -> None:
        told = f" ({', '.join(details)})" if any(details) else ""
        super().__init__(f"{function}: {code}{told}")
        self.function = function
        self.code = code
        self.details = details


class ExecutionNotFoundError(RefusedError):
    """Nobody's or the caller's: no such execution; it was never submitted, or retention removed it."""


class LeaseLostError(RefusedError):
    """Nobody's: the lease expired, was revoked or went to another attempt; stop working on it."""


class InvalidRequestError(RefusedError):
    """The caller's: an argument, a policy or a capability list is not acceptable."""


class WorkerNotFoundError(FfsuperError):
    """Nobody's or the caller's: no live worker has this instance id; it has ended, or is called otherwise."""


class ServerError(FfsuperError):
    """A FlowFabric server gave no answer that helps."""


class ServerAwayError(ServerError):
    """The server's or the network's: it could not be reached, or says that asking again helps; wait and ask again."""


class ServerRefusedError(ServerError):
    """The operator's: the server does not take our request or token, or answers what the protocol does not have.

    Asking again helps only once somebody has mended that, so ask slowly.
    """


class InstanceTakenError(FfsuperError):
    """The operator's: two workers were started with one instance id; stop one or rename it."""


class FencedError(FfsuperError):
    """The operator's: another process took over this worker's instance id at run time; this one stops."""


class ProtocolError(FfsuperError):
    """A peer's message breaks the rules between supervisor and child."""


class LocalProtocolError(ProtocolError):
    """Ours: we tried to send what the rules do not allow; it did not go. What it was about fails."""


class RemoteProtocolError(ProtocolError):
    """The peer's: what arrived is not a message. Kill the child; its attempt fails."""


class ChildError(FfsuperError):
    """A child process could not be made ready to run executions."""


class HandlersError(ChildError):
    """The user's: the handlers do not import, or register one kind twice."""


class ForkServerGoneError(ChildError):
    """The kernel's or the machine's: the process that children are forked from is gone, and with it all of them."""


class RestartLimitError(ChildError):
    """Children die or fail to boot faster than is worth restarting them."""


class HandlerDefinitionError(FfsuperError):
    """The user's: a function cannot be registered as a handler the way it is written."""


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended a nursery: the first that is no mere consequence."""
    for error in group.exceptions:
        return first_cause(error) if isinstance(error, BaseExceptionGroup) else error
    return group
