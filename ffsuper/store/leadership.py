"""Which of the engines on a store leads."""

from __future__ import annotations

from dataclasses import dataclass

from ffsuper.store import keys
from ffsuper.store.connection import Connection
from ffsuper.store.replies import Status, fcall


@dataclass(frozen=True, slots=True)
class Lead:
    """The answer to one who wants to lead.

    Attributes:
        holder: who leads; empty when it is the caller.
        term: the caller's, counted over all leaders of this store; 0 when another one leads.
        remaining_ms: how long the other one's lead lasts at least.
    """

    holder: str
    term: int
    remaining_ms: int


class Leadership:
    """What the leader actor does in the store."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lead(self, holder: str, ttl_ms: int) -> Lead:
        """Take or keep the lead for so long."""
        return await self._connection.run(fcall("ffsuper_lead", (keys.LEADER,), (holder, ttl_ms), lead))

    async def stop(self, holder: str) -> None:
        """Give the lead up, so that another one has it at once."""
        await self._connection.run(fcall("ffsuper_stop_leading", (keys.LEADER,), (holder,), lambda _: None))


def lead(status: Status) -> Lead:
    """Read the reply."""
    if status.text(0) == "leading":
        return Lead("", status.number(1), 0)
    return Lead(status.text(1), 0, status.number(2))
