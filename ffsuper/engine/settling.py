"""What the actors for dependencies have in common: they settle until nothing is left, a bit in each call."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.errors import StoreError
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulse
from ffsuper.store.dependencies import Dependencies, Settled, Work
from ffsuper.store.outage import STORE_AWAY
from ffsuper.store.replies import ElsewhereError

# Calls in a batch: the server answers nobody else while it works one off.
BATCH = 8


async def settle_all(
    dependencies: Dependencies, works: Sequence[Work], reports: trio.MemorySendChannel[SweepReport], pulse: Pulse
) -> None:
    """Do some works and all that comes of them; this ends, for nothing is skipped twice.

    Raises:
        StoreError: the store is away; what was done is done, and may be repeated.
    """
    left = list(works)
    while left:
        batch, left = left[:BATCH], left[BATCH:]
        results = await dependencies.settle(batch)
        pulse.beat()
        for work, result in zip(batch, results, strict=True):
            if isinstance(result, Settled):
                await reports.send(
                    SweepReport(pulse.name, result.outcomes, result.failed, result.example, result.why)
                )
                if result.left:
                    left.append(Work(work.key, result.left))
            else:
                await report_failure(pulse.name, work.key, result, reports)


async def report_failure(
    name: str, key: str, error: StoreError, reports: trio.MemorySendChannel[SweepReport]
) -> None:
    """Tell of a key that cannot be worked on.

    Raises:
        StoreError: the store is away; not so when the key is on its way to another server of a cluster.
    """
    if isinstance(error, STORE_AWAY) and not isinstance(error, ElsewhereError):
        raise error
    await reports.send(SweepReport(name, failed=1, example=key, why=str(error)))
