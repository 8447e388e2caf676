"""Finding executions whose holder is gone, and letting the leases of a dead worker instance end at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffsuper.errors import StoreError
from ffsuper.messages import Candidate, ClaimKind, ExecutionId, LaneId
from ffsuper.store.keys import is_execution_id
from ffsuper.store.looks import Index, Looks, indexes, score
from ffsuper.store.replies import Call, Part, Status, fcall, whole

PAGE = 200


@dataclass(frozen=True, slots=True)
class Taker:
    """What a worker can take over.

    Attributes:
        capabilities: comma-separated; may be empty.
        kinds: execution kinds; empty for any.
    """

    lanes: Sequence[LaneId]
    capabilities: str
    kinds: Sequence[str] = ()

    @property
    def args(self) -> tuple[Part, ...]:
        """As the function wants it."""
        return (self.capabilities, len(self.lanes), *self.lanes, len(self.kinds), *self.kinds)


@dataclass(frozen=True, slots=True)
class Expired:
    """A page of an index of lease expiries.

    Attributes:
        seen: how many entries the page had.
        still_due: how many of them are there as before.
        failed: how many could not be judged because of an error.
        candidates: those that the taker can have.
    """

    seen: int
    still_due: int
    failed: int
    candidates: Sequence[Candidate]


class Takeovers(Looks):
    """What the reclaimer does in the store."""

    async def expired(self, places: Sequence[tuple[Index, float, int]], taker: Taker) -> list[Expired | StoreError]:
        """Mark leases that ran out, and tell which of their executions the taker can have.

        Args:
            places: indexes of lease expiries, and for each the score and the position from which on it is looked at.
        """
        return await self._connection.try_all([expired_page(*place, taker) for place in places])

    async def end_leases(self, instance_id: str, partitions: Sequence[int]) -> int:
        """Let all leases of a worker instance end now; return how many there were.

        The caller is certain that its process and its children are dead.
        """
        ended = 0
        held = await self.present(indexes(f"worker:{instance_id}:leases", partitions))
        while held:
            answers = await self._connection.run_all([end_leases(index, instance_id) for index in held])
            ended += sum(count for count, _ in answers)
            held = [index for index, (_, left) in zip(held, answers, strict=True) if left]
        return ended


def expired_page(index: Index, since: float, offset: int, taker: Taker) -> Call[Expired]:
    """Look at one page of an index."""
    args = (score(since), offset, PAGE, *taker.args)
    return fcall("ffsuper_reclaimable", (index.key,), args, expired)


def expired(status: Status) -> Expired:
    """Read the reply."""
    texts = iter([field.decode(errors="replace") for field in status.fields[6:]])
    found = [
        Candidate(ExecutionId(execution_id), LaneId(lane), ClaimKind.RECLAIM, kind, whole(index))
        for execution_id, kind, index, lane in zip(texts, texts, texts, texts, strict=True)
        if is_execution_id(execution_id)
    ]
    return Expired(status.number(1), status.number(2), status.number(3), found)


def end_leases(index: Index, instance_id: str) -> Call[tuple[int, int]]:
    """Let leases on one partition end; tells how many, and how many entries are left."""
    keys = (index.key, index.beside("lease_expiry"))
    return fcall("ffsuper_end_leases", keys, (instance_id, PAGE), lambda status: (status.number(0), status.number(1)))
