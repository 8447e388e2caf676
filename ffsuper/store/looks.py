"""Looks at many indexes at once, wherever a cluster keeps them: one call to each node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

from ffsuper.messages import LaneId
from ffsuper.store import keys
from ffsuper.store.connection import Connection
from ffsuper.store.keys import PartitionKeys
from ffsuper.store.replies import Call, Part, Status, fcall

T = TypeVar("T")

NO_LANE = LaneId("")


@dataclass(frozen=True)
class Index:
    """One index of one partition.

    Attributes:
        name: ``delayed``, ``lease_expiry``, ...
        lane: empty for an index of the whole partition.
        family: of the partition: ``fp`` for executions and flows, ``b`` for budgets, ``q`` for quotas.
    """

    name: str
    partition: int
    lane: LaneId = NO_LANE
    family: str = "fp"

    @property
    def tag(self) -> str:
        """The hash tag of its partition, which is in one slot."""
        return f"{{{self.family}:{self.partition}}}"

    @cached_property
    def key(self) -> str:
        """Its key."""
        return self.beside(self.name)

    def of_partition(self, name: str) -> str:
        """Return the key of an index of the whole partition."""
        return Index(name, self.partition, family=self.family).key

    def beside(self, name: str) -> str:
        """Return the key of another index of the same lane, or of the same partition."""
        partition = PartitionKeys(self.tag)
        return partition.lane(self.lane, name) if self.lane else partition.index(name)


def indexes(
    name: str, partitions: Sequence[int], lanes: Collection[LaneId] = (NO_LANE,), family: str = "fp"
) -> list[Index]:
    """Return the indexes of that name, of all partitions and lanes."""
    return [Index(name, partition, lane, family) for lane in lanes for partition in partitions]


@dataclass(frozen=True, slots=True)
class First:
    """The first entry of an index.

    Attributes:
        at_ms: its score; minus infinity where another server of a cluster has the index by now.
        now_ms: the clock of the server that has it; the only one that decides what is due.
    """

    at_ms: float
    now_ms: int

    @property
    def late_ms(self) -> float:
        """For how long it has been due; negative while it is not."""
        return self.now_ms - self.at_ms


@dataclass(frozen=True, slots=True)
class Due:
    """What a look has found.

    Attributes:
        first: of each index that has an entry from its bound on.
        damaged: keys that are no index.
    """

    first: Mapping[Index, First]
    damaged: Collection[Index]


class Looks:
    """Which indexes there are, and which have something due."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lanes(self) -> list[LaneId]:
        """Return the lanes that workers have ever served here."""
        read = Call(("SMEMBERS", keys.LANES), lambda reply: [LaneId(lane.decode(errors="replace")) for lane in reply])
        lanes = await self._connection.run(read)
        return sorted(lanes)

    async def present(self, wanted: Sequence[Index]) -> list[Index]:
        """Return those that exist, of all servers that can be reached.

        Raises:
            StoreError: none can be.
        """
        answers = await self._look("ffsuper_present", wanted, lambda index: (index.key,), present_of)
        return [index for found in answers for index in found]

    async def due(self, bounds: Mapping[Index, float]) -> Due:
        """Return the lowest score of each index, from its bound on, of all servers that can be reached.

        Raises:
            StoreError: none can be.
        """
        answers = await self._look(
            "ffsuper_due", list(bounds), lambda index: (index.key, score(bounds[index])), due_of
        )
        first = {index: one for found in answers for index, one in found.first.items()}
        return Due(first, [index for found in answers for index in found.damaged])

    async def _look(
        self,
        function: str,
        wanted: Sequence[Index],
        told: Callable[[Index], tuple[Part, ...]],
        read: Callable[[Sequence[Index], Status], T],
    ) -> list[T]:
        """Ask every server about its indexes; return what ``read`` makes of those in order and of the answer."""
        calls = list[Call[T]]()
        for slots in await self._by_node(wanted):
            args: list[Part] = []
            for slot in slots:
                args += [len(slot), *(part for index in slot for part in told(index))]
            asked = [index for slot in slots for index in slot]
            calls.append(fcall(function, (slots[0][0].key,), tuple(args), partial(read, asked)))
        return await self._connection.run_where_reached(calls)

    async def _by_node(self, wanted: Sequence[Index]) -> list[list[list[Index]]]:
        """Return for each node of a cluster its indexes by slot; without a cluster there is one node and one slot."""
        nodes: dict[str, dict[str, list[Index]]] = {}
        for index, node in zip(wanted, await self._connection.nodes_of([one.key for one in wanted]), strict=True):
            nodes.setdefault(node, {}).setdefault(index.tag if node else "", []).append(index)
        return [list(slots.values()) for slots in nodes.values()]


def present_of(asked: Sequence[Index], status: Status) -> list[Index]:
    """Read which of the indexes exist."""
    return [asked[int(position)] for position in status.fields]


def due_of(asked: Sequence[Index], status: Status) -> Due:
    """Read the lowest scores of the indexes."""
    found, damaged, now_ms = dict[Index, First](), list[Index](), status.number(0)
    for position, first in zip(status.fields[1::2], status.fields[2::2], strict=True):
        if first:
            found[asked[int(position)]] = First(float(first), now_ms)
        else:
            damaged.append(asked[int(position)])
    return Due(found, damaged)


def score(bound: float) -> str:
    """Return a bound as the server reads it."""
    return f"{bound:.17g}"
