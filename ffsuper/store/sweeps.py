"""What the engine's sweeps read and move: bulk functions of library ``ffsuper``, a page of an index in one call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from ffsuper.errors import StoreError
from ffsuper.messages import LaneId
from ffsuper.store import keys
from ffsuper.store.connection import Connection
from ffsuper.store.keys import PartitionKeys
from ffsuper.store.replies import Call, Part, Status, fcall

# Members in a page: what bounds the time of one call on the server, to a millisecond or two.
PAGE = 100


@dataclass(frozen=True, slots=True)
class Index:
    """One index of one partition.

    Attributes:
        name: ``delayed``, ``lease_expiry``, ...
        lane: empty for an index of the whole partition.
    """

    name: str
    partition: int
    lane: LaneId = LaneId("")

    @property
    def key(self) -> str:
        """Its key."""
        return self.beside(self.name)

    def beside(self, name: str) -> str:
        """Return the key of another index of the same lane, or of the same partition."""
        partition = PartitionKeys.of_index(self.partition)
        return partition.lane(self.lane, name) if self.lane else partition.index(name)


def indexes(name: str, partitions: Sequence[int], lanes: Collection[LaneId] = (LaneId(""),)) -> list[Index]:
    """Return the indexes of that name, of all partitions and lanes."""
    return [Index(name, partition, lane) for lane in lanes for partition in partitions]


@dataclass(frozen=True, slots=True)
class Due:
    """What a look has found.

    Attributes:
        now_ms: the store's clock; the only one that decides what is due.
        first_ms: the lowest score of each index that has one from its bound on.
        damaged: keys that are no index.
    """

    now_ms: int
    first_ms: Mapping[Index, float]
    damaged: Collection[Index]


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


class Sweeps:
    """Looks at many indexes at once, and moves what is due."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lanes(self) -> list[LaneId]:
        """Return the lanes that workers have ever served here."""
        read = Call(
            ("SMEMBERS", keys.LANES), lambda reply: [LaneId(lane.decode(errors="surrogateescape")) for lane in reply]
        )
        return sorted(await self._connection.run(read))

    async def present(self, wanted: Sequence[Index]) -> list[Index]:
        """Return those that exist."""
        found: list[Index] = []
        for group in self._by_node(wanted):
            args = [part for slot in by_slot(group) for part in (len(slot), *(index.key for index in slot))]
            call = fcall("ffsuper_present", (group[0].key,), tuple(args), positions)
            found += [group[position] for position in await self._connection.run(call)]
        return found

    async def due(self, bounds: Mapping[Index, float]) -> Due:
        """Return the lowest score of each index, from its bound on."""
        now_ms, first_ms, damaged = 0, dict[Index, float](), list[Index]()
        for group in self._by_node(list(bounds)):
            args: list[Part] = []
            for slot in by_slot(group):
                args += [len(slot), *(part for index in slot for part in (index.key, score(bounds[index])))]
            call = fcall("ffsuper_due", (group[0].key,), tuple(args), lambda status: status)
            status = await self._connection.run(call)
            now_ms = max(now_ms, status.number(0))
            for position, first in zip(status.fields[1::2], status.fields[2::2], strict=True):
                if first:
                    first_ms[group[int(position)]] = float(first)
                else:
                    damaged.append(group[int(position)])
        return Due(now_ms, first_ms, damaged)

    async def move(self, calls: Sequence[Call[Page]]) -> list[Page | StoreError]:
        """Move pages; a StoreError in the place of each that failed as a whole."""
        return await self._connection.try_all(calls)

    def _by_node(self, wanted: Sequence[Index]) -> Iterator[list[Index]]:
        """Yield the indexes of each node of a cluster, in the order of their partitions; all where there is none."""

        def node(index: Index) -> str:
            return self._connection.node_of(index.key)

        in_order = sorted(wanted, key=lambda index: (node(index), index.partition))
        for _, group in groupby(in_order, node):
            yield list(group)


def by_slot(group: Sequence[Index]) -> Iterator[list[Index]]:
    """Yield the indexes of each partition."""
    for _, slot in groupby(group, lambda index: index.partition):
        yield list(slot)


def positions(status: Status) -> list[int]:
    """Read a reply that is a list of positions."""
    return [int(position) for position in status.fields]


def score(bound: float) -> str:
    """Return a bound as the server reads it."""
    return f"{bound:.17g}"


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


def page_call(function: str, index_keys: tuple[str, ...], since: float, offset: int, *more: Part) -> Call[Page]:
    """Return the call of a sweep function."""
    return fcall(function, index_keys, (score(since), offset, PAGE, *more), page)


def page(status: Status) -> Page:
    """Read the reply of a sweep function."""
    outcomes = status.fields[6:]
    return Page(
        *(status.number(position) for position in range(4)),
        example=status.fields[4].decode(errors="replace"),
        why=status.fields[5].decode(errors="replace"),
        outcomes={name.decode(): int(count) for name, count in zip(outcomes[::2], outcomes[1::2], strict=True)},
    )
