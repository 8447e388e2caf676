"""What actors send one another where a message carries a channel end."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from ffsuper.messages import Candidate, Claim, ExecutionId, Lease, LeaseId


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a look at the store found, or a server granted; scanner, asker or reclaimer to claimer.

    Attributes:
        read_at_s: local clock when it was read; old ones are likely to be taken by now.
    """

    found: tuple[Candidate, ...]
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

    code: str
    has_ended: bool


@dataclass(frozen=True, slots=True)
class Assignment:
    """A claim on its way to the child that will run it.

    Attributes:
        lease_end: yields at most one LeaseEnd.
    """

    claim: Claim
    lease_end: trio.MemoryReceiveChannel[LeaseEnd]


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one execution in a ready child; whoever takes it sends one assignment or closes the channel."""

    assignments: trio.MemorySendChannel[Assignment]


@dataclass(frozen=True, slots=True)
class Track:
    """Claimer to lease renewer: keep this lease alive.

    Attributes:
        lease_end: holds one message, so that telling an executor never keeps the renewer waiting.
    """

    lease: Lease
    lease_end: trio.MemorySendChannel[LeaseEnd]


@dataclass(frozen=True, slots=True)
class Release:
    """Executor to lease renewer: the store has answered; this lease needs no renewal."""

    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class Check:
    """To the lease renewer: something has happened to this execution; ask now whether its lease still holds."""

    execution_id: ExecutionId


LeaseNews = Track | Release | Check
