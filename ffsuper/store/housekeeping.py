"""Deleting what was kept long enough, and mending what does not agree: bulk functions of library ``ffsuper``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ffsuper.errors import StoreError
from ffsuper.store import keys
from ffsuper.store.looks import Index, Looks
from ffsuper.store.presence import done
from ffsuper.store.replies import Call, Status, fcall
from ffsuper.store.sweeps import Page, page_call

# Members looked at in one call, about.
SCAN_COUNT = 100
BEGIN = "0"


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was found on a page of a set.

    Attributes:
        cursor: where to go on; ``BEGIN`` at the end.
        failed: how many members could not be looked at because of an error.
        example: one of these, ...
        why: ... and its error.
        outcomes: what the others were like, or what became of them, by kind.
    """

    cursor: str
    failed: int
    example: str
    why: str
    outcomes: Mapping[str, int]


# How a page of a set is looked at: from which cursor on.
Look = Callable[[Index, str], Call[Scanned]]


class Housekeeping(Looks):
    """What the slow sweeps do in the store."""

    async def trim(self, places: Sequence[tuple[Index, float, int]], age_ms: int) -> list[Page | StoreError]:
        """Delete executions that ended so long ago at least, as far as their policies allow.

        Args:
            places: indexes of ended executions, each with the score and the position from which on it is looked at.
        """
        return await self._connection.try_all([trim_page(*place, age_ms) for place in places])

    async def scan(self, calls: Sequence[Call[Scanned]]) -> list[Scanned | StoreError]:
        """Look at pages of sets; a StoreError in the place of each that failed as a whole."""
        return await self._connection.try_all(calls)

    async def dead_workers(self) -> set[str]:
        """Return the workers of ours that are listed, and say no more that they live or how they stand."""
        listed = await self._connection.run(members(keys.OWN_WORKERS))
        signs = await self._connection.run_all([sign_of_life(key) for one in listed for key in signs_of_life(one)])
        alive, told = signs[::2], signs[1::2]
        return {one for one, *signs in zip(listed, alive, told, strict=True) if not any(signs)}

    async def forget_worker(self, instance_id: str) -> bool:
        """Take back what a dead worker has advertised, unless it lives after all.

        One that begins at this very moment advertises again when its alive key is renewed a few times.
        """
        signs = await self._connection.run_all([sign_of_life(key) for key in signs_of_life(instance_id)])
        if any(signs):
            return False
        # While it is listed as ours, what it has advertised counts for nothing.
        capabilities = keys.worker_capabilities(instance_id)
        await self._connection.run_all([done("DEL", capabilities), done("SREM", keys.WORKERS, instance_id)])
        await self._connection.run(done("SREM", keys.OWN_WORKERS, instance_id))
        return True


def signs_of_life(instance_id: str) -> tuple[str, str]:
    """Return the keys that last no longer than a worker; one that is stuck has only the second."""
    return keys.worker_alive(instance_id), keys.worker_status(instance_id)


def sign_of_life(key: str) -> Call[bool]:
    """Tell whether such a key exists."""
    return Call(("EXISTS", key), bool)


def members(key: str) -> Call[list[str]]:
    """Read a set of names, sorted; what is no text is none."""
    return Call(("SMEMBERS", key), lambda reply: sorted(one.decode() for one in reply if is_text(one)))


def is_text(name: bytes) -> bool:
    """Tell whether a name is one that a worker can have written."""
    return name.decode(errors="replace").encode() == name


def trim_page(index: Index, since: float, offset: int, age_ms: int) -> Call[Page]:
    """Delete what is on a page."""
    return page_call("ffsuper_trim", (index.key, index.of_partition("all_executions")), since, offset, age_ms)


def reconcile_indexes(index: Index, cursor: str) -> Call[Scanned]:
    """Put executions back into the indexes that they are missing from."""
    return scan_call("ffsuper_reconcile", (index.key, index.beside("lease_expiry")), cursor)


def reconcile_budgets(index: Index, cursor: str) -> Call[Scanned]:
    """Keep the breach marks of budgets that are never reset."""
    return scan_call("ffsuper_reconcile_budgets", (index.key,), cursor)


def reconcile_quotas(index: Index, cursor: str) -> Call[Scanned]:
    """Trim the windows of quotas, and correct their counters."""
    return scan_call("ffsuper_reconcile_quotas", (index.key,), cursor)


def scan_call(function: str, names: tuple[str, ...], cursor: str) -> Call[Scanned]:
    """Return the call of a function that looks at a page of a set.

    Args:
        names: of the keys.
    """
    return fcall(function, names, (cursor, SCAN_COUNT), scanned)


def scanned(status: Status) -> Scanned:
    """Read its reply."""
    outcomes = zip(status.fields[4::2], status.fields[5::2], strict=True)
    counts = {name.decode(errors="replace"): int(count) for name, count in outcomes}
    example, why = (status.fields[position].decode(errors="replace") for position in (2, 3))
    return Scanned(status.text(0), status.number(1), example, why, counts)
