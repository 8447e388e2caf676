"""What the engine's sweeps read and move: bulk functions of library ``ffsuper``, a page of an index in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ffsuper.errors import StoreError
from ffsuper.store.looks import Index, Looks, score
from ffsuper.store.replies import Call, Part, Status, fcall

# Members in a page: what bounds the time of one call on the server, to a millisecond or two.
PAGE = 100


@dataclass(frozen=True, slots=True)
class Page:
    """What became of a page of an index.

    Attributes:
        now_ms: the store's clock: members that fell due until then were considered.
        seen: how many members the page had.
        still_due: how many of them are there as before.
        failed: how many could not be moved because of an error.
        example: one of these, ...
        why: ... and its error.
        outcomes: what became of the others, by kind.
    """

    now_ms: int
    seen: int
    still_due: int
    failed: int = 0
    example: str = ""
    why: str = ""
    outcomes: Mapping[str, int] = field(default_factory=dict)


# How a page of an index is moved: from which score on, from which position on.
Move = Callable[[Index, float, int], Call[Page]]


class Sweeps(Looks):
    """Moves what a look has found."""

    async def move(self, calls: Sequence[Call[Page]]) -> list[Page | StoreError]:
        """Move pages; a StoreError in the place of each that failed as a whole."""
        return await self._connection.try_all(calls)


def promote_delayed(index: Index, since: float, offset: int) -> Call[Page]:
    """Make delayed executions claimable whose time has come."""
    return page_call("ffsuper_promote_delayed", (index.key, index.beside("eligible")), since, offset)


def mark_expired(index: Index, since: float, offset: int) -> Call[Page]:
    """Mark leases that ran out; they stay in the index until their executions are taken over."""
    return page_call("ffsuper_mark_expired", (index.key,), since, offset)


def expire_executions(index: Index, since: float, offset: int) -> Call[Page]:
    """End executions whose attempt, or all of them, took too long; the index's name is the reason."""
    return page_call("ffsuper_expire_executions", (index.key,), since, offset, index.name)


def expire_suspensions(index: Index, since: float, offset: int) -> Call[Page]:
    """Let suspensions time out."""
    return page_call("ffsuper_expire_suspensions", (index.key,), since, offset)


def close_waitpoints(index: Index, since: float, offset: int) -> Call[Page]:
    """Close pending waitpoints that no suspension has used in time."""
    return page_call("ffsuper_close_waitpoints", (index.key,), since, offset)


def reset_budgets(index: Index, since: float, offset: int) -> Call[Page]:
    """Reset budgets that are due."""
    return page_call("ffsuper_reset_budgets", (index.key,), since, offset)


def page_call(function: str, index_keys: tuple[str, ...], since: float, offset: int, *more: Part) -> Call[Page]:
    """Return the call of a sweep function."""
    return fcall(function, index_keys, (score(since), offset, PAGE, *more), page)


def page(status: Status) -> Page:
    """Read the reply of a sweep function."""
    now_ms, seen, still_due, failed = (status.number(position) for position in range(4))
    example, why = (status.fields[position].decode(errors="replace") for position in (4, 5))
    outcomes = zip(status.fields[6::2], status.fields[7::2], strict=True)
    counts = {name.decode(): int(count) for name, count in outcomes}
    return Page(now_ms, seen, still_due, failed, example, why, counts)
