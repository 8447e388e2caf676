"""A worker instance in the store: its alive key, its capabilities, and the partition configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffsuper.errors import StoreScriptError, StoreUnsuitableError
from ffsuper.messages import LaneId
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store import keys
from ffsuper.store.connection import Connection
from ffsuper.store.outage import STORE_AWAY
from ffsuper.store.replies import Call, as_bytes, fcall

# Who asks whether we are ready does not wait for long.
ANSWER_S = 1.0
# In place of what the holder of an alive key stored there, when that is no text: it is not us.
NO_TEXT = b"no text"
DEFAULT_COUNTS = PartitionCounts()


class Presence:
    """What the presence actor does in the store, for one instance."""

    def __init__(self, connection: Connection, instance_id: str) -> None:
        self.instance_id = instance_id
        self._connection = connection
        self._alive = keys.worker_alive(instance_id)
        self._capabilities = keys.worker_capabilities(instance_id)
        self._status = keys.worker_status(instance_id)
        self._order = keys.worker_order(instance_id)

    async def take_alive(self, holder: bytes, ttl_ms: int) -> bytes | None:
        """Take the alive key if nobody holds it.

        Returns:
            None when it is ours now; else what its holder stored there, empty if it went away meanwhile.
        """
        taken = await self._connection.run(
            Call(("SET", self._alive, holder, "NX", "PX", ttl_ms), lambda reply: reply is not None)
        )
        if taken:
            return None
        return await self.holder()

    async def holder(self) -> bytes:
        """Return what the alive key's holder stored there; empty when nobody holds it."""
        try:
            return await self._connection.run(Call(("GET", self._alive), as_bytes))
        except StoreScriptError:
            return NO_TEXT

    async def replace_alive(self, dead_holder: bytes, holder: bytes, ttl_ms: int) -> bool:
        """Take the alive key from a holder known to be dead; False when somebody was quicker."""
        return await self._owned("ffsuper_replace_alive", dead_holder, holder, ttl_ms)

    async def renew_alive(self, holder: bytes, ttl_ms: int) -> bool:
        """Keep the alive key; False when it is gone or another's."""
        return await self._owned("ffsuper_renew_alive", holder, ttl_ms)

    async def release_alive(self, holder: bytes) -> bool:
        """Delete the alive key if it is ours."""
        return await self._owned("ffsuper_release_alive", holder)

    async def _owned(self, function: str, *args: bytes | int) -> bool:
        try:
            return await self._connection.run(
                fcall(function, (self._alive,), args, lambda status: status.number(0) == 1)
            )
        except StoreScriptError:
            return False

    async def advertise(self, capabilities: str, lanes: Sequence[LaneId]) -> None:
        """Publish the lanes, for the engine's sweeps, and the capabilities, comma-separated.

        Of the capabilities, the list comes before the index entry; an empty one is withdrawn.
        """
        if lanes:
            await self._connection.run(done("SADD", keys.LANES, *lanes))
        await self._connection.run(done("SADD", keys.OWN_WORKERS, self.instance_id))
        if not capabilities:
            await self._withdraw_capabilities()
            return
        await self._connection.run(done("SET", self._capabilities, capabilities))
        await self._connection.run(done("SADD", keys.WORKERS, self.instance_id))

    async def tell(self, status: str, ttl_ms: int) -> None:
        """Say how the worker stands, for those who look at it; JSON, as ``Standing.report`` has it."""
        await self._connection.run(done("SET", self._status, status, "PX", str(ttl_ms)))

    async def order(self) -> bytes:
        """Return what an operator has last told this instance to do, as JSON; empty when nothing."""
        return await self._connection.run(Call(("GET", self._order), as_bytes))

    async def answers(self) -> bool:
        """Tell whether the store can be reached."""
        try:
            await self._connection.run(done("PING"), ANSWER_S)
        except STORE_AWAY:
            return False
        return True

    async def withdraw(self) -> None:
        """Take back what was advertised, told and ordered."""
        await self._withdraw_capabilities()
        await self._connection.run(done("SREM", keys.OWN_WORKERS, self.instance_id))
        await self._connection.run(done("DEL", self._status))
        await self._connection.run(done("DEL", self._order))

    async def _withdraw_capabilities(self) -> None:
        await self._connection.run(done("DEL", self._capabilities))
        await self._connection.run(done("SREM", keys.WORKERS, self.instance_id))


def done(*command: str) -> Call[None]:
    """Return the call of a plain command whose reply says nothing."""
    return Call(command, lambda _: None)


def read_partition_counts() -> Call[PartitionCounts | None]:
    """Read the partition configuration; None when the store has none yet."""
    return Call(("HGETALL", keys.PARTITION_CONFIG), parse_partition_counts)


def install_partition_counts(counts: PartitionCounts) -> Call[None]:
    """Write the partition configuration, unless there is one."""
    numbers = (counts.flow, counts.budget, counts.quota)
    return fcall("ffsuper_install_partitions", (keys.PARTITION_CONFIG,), numbers, lambda _: None)


def parse_partition_counts(reply: Any) -> PartitionCounts | None:
    """Read the hash; a missing field has its default, as for every worker of the protocol.

    Raises:
        StoreUnsuitableError: a field is no number from 1 to 65535: guessing would hide work.
    """
    if not reply:
        return None
    stored = dict(zip(reply[::2], reply[1::2], strict=True))
    found = {}
    for family, default in (("flow", DEFAULT_COUNTS.flow), ("budget", 32), ("quota", 32)):
        text = stored.get(f"num_{family}_partitions".encode(), str(default).encode())
        number = int(text) if text.isdigit() else 0
        if not 1 <= number <= 65535:
            raise StoreUnsuitableError(
                f"{keys.PARTITION_CONFIG} in the store: num_{family}_partitions is "
                f"{text.decode(errors='replace')!r}, not a number from 1 to 65535: repair it to what the store "
                "was set up with"
            )
        found[family] = number
    return PartitionCounts(**found)
