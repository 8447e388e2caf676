"""The whole store as a worker uses it: one connection per role, so that no role waits behind another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreError
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store import libraries, loading, secrets
from ffsuper.store.attempts import Attempts
from ffsuper.store.blocked import Blocked
from ffsuper.store.claims import Claims, Identity
from ffsuper.store.cluster import open_wire
from ffsuper.store.connection import open_connection
from ffsuper.store.dependencies import Dependencies
from ffsuper.store.housekeeping import Housekeeping
from ffsuper.store.leadership import Leadership
from ffsuper.store.leases import Leases
from ffsuper.store.outcomes import Outcomes
from ffsuper.store.presence import Presence, install_partition_counts, read_partition_counts
from ffsuper.store.scans import Scans
from ffsuper.store.sweeps import Sweeps
from ffsuper.store.takeovers import Takeovers


@dataclass(frozen=True, slots=True)
class Store:
    """What each actor of a line does in the store."""

    scans: Scans
    takeovers: Takeovers
    claims: Claims
    leases: Leases
    attempts: Attempts
    outcomes: Outcomes


@dataclass(frozen=True, slots=True)
class EngineStore:
    """What the engine does in the store."""

    leadership: Leadership
    sweeps: Sweeps
    blocked: Blocked
    housekeeping: Housekeeping
    dependencies: Dependencies


@asynccontextmanager
async def open_engine_store(settings: StoreConfig, counts: PartitionCounts) -> AsyncIterator[EngineStore]:
    """Open the connections of an engine: its lead waits behind no sweep, and what is due behind no slow one."""
    async with (
        open_connection(settings, "lead") as lead,
        open_connection(settings, "sweeps") as sweeps,
        open_connection(settings, "housekeeping") as slow,
    ):
        yield EngineStore(
            Leadership(lead), Sweeps(sweeps), Blocked(slow, counts), Housekeeping(slow), Dependencies(sweeps)
        )


@asynccontextmanager
async def open_store(
    settings: StoreConfig, identity: Identity, budget_partitions: int, now_s: Callable[[], float]
) -> AsyncIterator[Store]:
    """Open the connections of a worker's line; they are made at their first use.

    Args:
        now_s: the local clock that leases are judged by.
    """
    async with (
        open_connection(settings, "leases") as leases,
        open_connection(settings, "work") as work,
    ):
        yield Store(
            Scans(work),
            Takeovers(work),
            Claims(work, identity, now_s, may_load=settings.library != "never"),
            Leases(leases, may_load=settings.library != "never"),
            Attempts(work, budget_partitions),
            Outcomes(work, identity.instance_id),
        )


@asynccontextmanager
async def open_presence(settings: StoreConfig, instance_id: str) -> AsyncIterator[Presence]:
    """Open the connection of a worker's presence: nothing keeps it from saying that it is alive."""
    async with open_connection(settings, "presence") as connection:
        yield Presence(connection, instance_id)


def announces_eligible(settings: StoreConfig) -> bool:
    """Tell whether the store's functions announce where there is something to do: those of ours do. Blocks.

    While the store cannot be asked they are taken not to: looking more often than needed loses nothing.
    """
    wire = open_wire(settings, "ffsuper-setup")
    try:
        return libraries.announce_eligible(wire)
    except StoreError:
        return False
    finally:
        wire.close()


def require_libraries(settings: StoreConfig) -> None:
    """Make sure that the store's libraries will still do. Blocks.

    Raises:
        StoreUnsuitableError: others have put some there that do not.
        StoreError: it cannot be asked.
    """
    wire = open_wire(settings, "ffsuper-setup")
    try:
        loading.require_everywhere(wire, settings.library)
    finally:
        wire.close()


def prepare(
    settings: StoreConfig, new_counts: PartitionCounts | None = None, *, thoroughly: bool = False
) -> PartitionCounts:
    """Make a store ready for use: libraries, partition configuration, secrets. Blocks; before trio runs.

    Args:
        new_counts: written when the store has no partition configuration yet; the protocol's defaults when None.
        thoroughly: look for the secret of every partition, not only of the last one.

    Raises:
        StoreUnsuitableError: no functions, a library of another version, an unreadable partition configuration.
        StoreAccessError: the store refuses our credentials.
        StoreError: it cannot be reached.
    """
    wire = open_wire(settings, "ffsuper-setup")
    try:
        loading.prepare(wire, settings.library)
        counts = wire.run(read_partition_counts())
        if counts is None:
            wire.run(install_partition_counts(new_counts or PartitionCounts()))
            counts = wire.run(read_partition_counts())
        counts = counts or PartitionCounts()
        secrets.install(wire, counts.flow, thoroughly=thoroughly)
        return counts
    finally:
        wire.close()
