"""Hears at once that a lease was taken away, by a cancellation for instance, instead of at its next renewal."""

from __future__ import annotations

import trio

from ffsuper.channels import Check, LeaseNews
from ffsuper.messages import ExecutionId


async def run(ends: trio.MemoryReceiveChannel[bytes], leases: trio.MemorySendChannel[LeaseNews]) -> None:
    """Have the lease renewer ask about every execution that is announced; until cancelled, or ``leases`` closes.

    The announcement is a hint: only the store's refusal of a renewal ends a lease.
    """
    async with leases:
        async for message in ends:
            try:
                await leases.send(Check(ExecutionId(message.decode(errors="replace"))))
            except trio.BrokenResourceError:
                return
