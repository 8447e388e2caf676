"""What actors send one another where a message carries a channel end, and how they take all that has come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import trio

from ffsuper.messages import Candidate, Claim, Delivered, ExecutionId, Lease, LeaseId, Outcome, Pick

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a look at the store found, or a server granted; scanner, asker or reclaimer to claimer.

    Attributes:
        read_at_s: local clock when it was read; old ones are likely to be taken by now.
    """

    found: tuple[Candidate | Pick, ...]
    read_at_s: float


@dataclass(frozen=True, slots=True)
class Demand:
    """A claimer tells the asker that it wants more or fewer grants.

    Attributes:
        change: added to what is wanted; each granted candidate that is handed over counts as one less by itself.
    """

    change: int


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """The lease renewer tells the executor that it must not act on a lease any more.

    Attributes:
        code: the store's refusal code, or ``local_deadline`` when it could not be renewed in time.
        has_ended: the execution has come to an end, so that no other attempt can begin by itself.
    """

    lease_id: LeaseId
    code: str
    has_ended: bool


@dataclass(frozen=True, slots=True)
class LeaseExtended:
    """The lease renewer tells the executor that a lease lasts longer.

    Attributes:
        deadline_s: on the lease clock; from there on nobody may act on it.
    """

    lease_id: LeaseId
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one execution in a ready child.

    Attributes:
        assignments: whoever takes the slot sends one message, for which there is room: a claim, or None to give the
            slot back unused.
        lease_terms: how long the lease of that claim lasts, and its end; there is room for any number of messages.
    """

    assignments: trio.MemorySendChannel[Claim | None]
    lease_terms: trio.MemorySendChannel[LeaseTerm]


@dataclass(frozen=True, slots=True)
class Finished:
    """Executor to deliverer: what has become of an attempt.

    Attributes:
        outcome: what is to be delivered, or what has become of that already.
        about: what else the log says of the attempt.
        is_in_doubt: it may have been delivered.
    """

    claim: Claim
    outcome: Outcome | Delivered
    about: Mapping[str, object]
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Track:
    """Claimer to lease renewer: keep this lease alive.

    Attributes:
        terms: has room for any number of messages, so that telling an executor never keeps the renewer waiting.
    """

    lease: Lease
    terms: trio.MemorySendChannel[LeaseTerm]


@dataclass(frozen=True, slots=True)
class Release:
    """Deliverer to lease renewer: the store has answered; this lease needs no renewal."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class Check:
    """To the lease renewer: something has happened to this execution; ask now whether its lease still holds."""

    execution_id: ExecutionId


LeaseNews = Track | Release | Check
LeaseTerm = LeaseExtended | LeaseEnd


def gathered(channel: trio.MemoryReceiveChannel[T], most: float = math.inf) -> Iterator[T]:
    """Yield the messages that are there already, at most so many; never waits."""
    while most > 0:
        try:
            message = channel.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        yield message
        most -= 1
