"""What the engine's sweeps read and move."""

from __future__ import annotations

from collections.abc import Sequence

from ffsuper.errors import StoreError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.replies import Call, fcall
from ffsuper.store.scans import due_page, ids


class Sweeps:
    """Due members of time-ordered indexes, and the functions that move them on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def now_ms(self) -> int:
        """Return the store's clock; the only one that decides what is due."""
        return await self._connection.run(Call(("TIME",), lambda reply: int(reply[0]) * 1000 + int(reply[1]) // 1000))

    async def due_delayed(
        self, lane: LaneId, partitions: Sequence[int], now_ms: int, offset: int, page: int
    ) -> list[ExecutionId]:
        """Return one page per partition of the delayed executions of a lane whose time has come."""
        calls = [
            Call(
                (
                    *("ZRANGEBYSCORE", PartitionKeys.of_index(number).lane(lane, "delayed")),
                    *("-inf", now_ms, "LIMIT", offset, page),
                ),
                ids,
            )
            for number in partitions
        ]
        return [execution for found in await self._connection.run_all(calls) for execution in found]

    async def promote_delayed(
        self, lane: LaneId, executions: Sequence[ExecutionId], now_ms: int
    ) -> list[str | StoreError]:
        """Make delayed executions eligible; each answers ``promoted``, ``not_yet_due`` or ``…_cleaned``."""
        return await self._connection.try_all([promote_delayed(lane, one, now_ms) for one in executions])

    async def due_leases(self, partitions: Sequence[int], now_ms: int, offset: int, page: int) -> list[ExecutionId]:
        """Return one page per partition of the executions whose lease expiry has passed."""
        calls = [due_page(number, "lease_expiry", now_ms, offset, page) for number in partitions]
        return [execution for found in await self._connection.run_all(calls) for execution in found]

    async def mark_expired(self, executions: Sequence[ExecutionId]) -> list[str | StoreError]:
        """Mark leases that ran out; each answers ``marked_expired``, or why there was nothing to mark."""
        return await self._connection.try_all([mark_expired(one) for one in executions])


def promote_delayed(lane: LaneId, execution_id: ExecutionId, now_ms: int) -> Call[str]:
    """Move one execution from the delayed to the eligible index."""
    keys = ExecutionKeys.of(execution_id)
    return fcall(
        "ff_promote_delayed",
        (keys.core, keys.partition.lane(lane, "delayed"), keys.partition.lane(lane, "eligible")),
        (execution_id, now_ms),
        lambda status: status.text(0),
    )


def mark_expired(execution_id: ExecutionId) -> Call[str]:
    """Mark one execution's lease as expired if it is."""
    keys = ExecutionKeys.of(execution_id)
    return fcall(
        "ff_mark_lease_expired_if_due",
        (
            *(keys.core, keys.part("lease:current")),
            *(keys.partition.index("lease_expiry"), keys.part("lease:history")),
        ),
        (execution_id,),
        lambda status: status.text(0),
    )
