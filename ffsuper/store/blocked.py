"""Executions that wait for capabilities, a budget or a quota: for which, whether it is there, letting them go."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ffsuper.errors import StoreError, StoreScriptError
from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import PartitionCounts, of_bytes
from ffsuper.store import keys
from ffsuper.store.connection import Connection
from ffsuper.store.keys import BudgetKeys, ExecutionKeys, QuotaKeys
from ffsuper.store.looks import Index, Looks
from ffsuper.store.replies import Call, Status, fcall, text_fields

T = TypeVar("T")

PAGE = 200
# Commands in one pipeline.
BATCH = 500
QUOTAS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Causes:
    """What a page of blocked executions waits for.

    Attributes:
        counts: cause, as in the records, to how many wait for it.
    """

    seen: int
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Released:
    """What became of a page of blocked executions.

    Attributes:
        used: cause to how many were let go that waited for it.
        failed: how many could not be let go because of an error.
        example: one of these, ...
        why: ... and its error.
    """

    seen: int
    released: int
    failed: int
    example: str
    why: str
    used: Mapping[str, int]


def silent() -> None:
    """Tell nobody that something goes on."""


class Blocked(Looks):
    """What the unblock sweep does in the store."""

    def __init__(self, connection: Connection, counts: PartitionCounts) -> None:
        super().__init__(connection)
        self._counts = counts

    async def causes(self, places: Sequence[tuple[Index, int]]) -> list[Causes | StoreError]:
        """Tell for pages, each an index and a position in it, what their executions wait for."""
        return await self._connection.try_all([causes_page(index, offset) for index, offset in places])

    async def release(self, places: Sequence[tuple[Index, int, Mapping[str, int]]]) -> list[Released | StoreError]:
        """Let those executions of pages go that wait for one of the causes, each cause so many at most."""
        return await self._connection.try_all([release_page(*place) for place in places])

    async def live_capabilities(self, beat: Callable[[], None] = silent) -> set[str]:
        """Return the capability lists of all workers that live, comma-separated, each once.

        A worker of ours lives as long as its alive key. Workers of other makers do not renew theirs; they count as
        long as they are advertised.

        Args:
            beat: told again and again that this goes on; the calls to the store can be many.
        """
        read_all = [members(keys.WORKERS), members(keys.OWN_WORKERS)]
        advertised, own = await self._connection.run_all(read_all)
        beat()
        workers = sorted(advertised)
        found: set[str] = set()
        for start in range(0, len(workers), BATCH // 2):
            batch = workers[start : start + BATCH // 2]
            lists = await self._connection.run_all([read_text(keys.worker_capabilities(one)) for one in batch])
            alive = await self._connection.run_all([exists(keys.worker_alive(one)) for one in batch])
            beat()
            judged = zip(batch, lists, alive, strict=True)
            found |= {text for one, text, lives in judged if text and (lives or one not in own)}
        return found

    async def used_up(self, ids: Collection[str]) -> set[str]:
        """Return which of these budgets have reached a hard limit, or cannot be read. What is no id is no budget."""
        known = {text: at for text in ids if (at := self._budget_keys(text)) is not None}
        reads = [Call(("HGETALL", key), text_fields) for at in known.values() for key in (at.limits, at.usage)]
        found: list[dict[str, str] | None] = await self._read(reads)
        budgets = zip(known, found[::2], found[1::2], strict=True)
        return {one for one, limits, usage in budgets if limits is None or usage is None or is_used_up(limits, usage)}

    async def _read(self, calls: Sequence[Call[T]]) -> list[T | None]:
        """Read; None in the place of keys that hold something else than they should."""
        results = await self._connection.try_all(calls)
        for result in results:
            if isinstance(result, StoreError) and not isinstance(result, StoreScriptError):
                raise result
        return [None if isinstance(result, StoreError) else result for result in results]

    def _budget_keys(self, text: str) -> BudgetKeys | None:
        try:
            return BudgetKeys(of_bytes(uuid.UUID(text).bytes, self._counts.budget), text)
        except ValueError:
            return None

    async def quota_room(self, ids: Collection[str], beat: Callable[[], None] = silent) -> dict[str, int | None]:
        """Return for how many executions each quota has room now; None without end, and for what is no quota's id.

        Places of executions that do not run any more are given back first.

        Args:
            beat: see ``live_capabilities``.
        """
        known = {text: at for text in ids if (at := self._quota_keys(text)) is not None}
        await self.give_back(list(known.values()), beat)
        found: list[float | None] = await self._read([read_quota_room(at) for at in known.values()])
        rooms = {text: 0 if room is None else room for text, room in zip(known, found, strict=True)}
        return {text: None if (room := rooms.get(text, math.inf)) == math.inf else int(room) for text in ids}

    async def quotas(self, policies: Index) -> list[QuotaKeys]:
        """Return the quotas of one partition; none where the index is damaged."""
        (found,) = await self._read([members(policies.key)])
        return [at for text in sorted(found or ()) if (at := self._quota_keys(text)) is not None]

    async def give_back(self, quotas: Sequence[QuotaKeys], beat: Callable[[], None] = silent) -> int:
        """Give the places of executions back that neither run nor are granted to anybody; tell how many.

        Args:
            beat: see ``live_capabilities``.

        Raises:
            StoreError: the store is away.
        """
        waiting, cursors, given_back = list(quotas), dict[QuotaKeys, bytes](), 0
        while waiting or cursors:
            while waiting and len(cursors) < QUOTAS_AT_ONCE:
                cursors[waiting.pop()] = b"0"
            pages = await self._read([admitted_page(at, cursor) for at, cursor in cursors.items()])
            beat()
            admitted = [(at, one) for at, page in zip(cursors, pages, strict=True) if page for one in page[1]]
            given_back += await self._give_back(admitted, beat)
            cursors = {at: page[0] for at, page in zip(cursors, pages, strict=True) if page and page[0] != b"0"}
        return given_back

    async def _give_back(self, admitted: Sequence[tuple[QuotaKeys, ExecutionId]], beat: Callable[[], None]) -> int:
        # The stamp first: an admission that comes after it keeps its place. The grant before the state: it is taken
        # away in the moment in which the execution becomes active.
        stamps = await self._read([read_stamp(*one) for one in admitted])
        known = [one for _, one in admitted if keys.is_execution_id(one)]
        held = await self._read([call for one in known for call in (is_granted(one), is_active(one))])
        beat()
        idle = {one for one, *is_held in zip(known, held[::2], held[1::2], strict=True) if is_held == [False, False]}
        idle |= {one for _, one in admitted} - set(known)
        calls = [
            give_back(at, one, stamp or "") for (at, one), stamp in zip(admitted, stamps, strict=True) if one in idle
        ]
        return sum(done is True for done in await self._read(calls))

    def _quota_keys(self, text: str) -> QuotaKeys | None:
        try:
            return QuotaKeys(of_bytes(uuid.UUID(text).bytes, self._counts.quota), text)
        except ValueError:
            return None


def members(key: str) -> Call[set[str]]:
    """Read a set of names."""
    return Call(("SMEMBERS", key), lambda reply: {one.decode(errors="replace") for one in reply})


def read_text(key: str) -> Call[str]:
    """Read a text; empty when there is none."""
    return Call(("GET", key), lambda reply: (reply or b"").decode(errors="surrogateescape"))


def exists(key: str) -> Call[bool]:
    """Tell whether a key exists."""
    return Call(("EXISTS", key), bool)


def is_granted(execution_id: ExecutionId) -> Call[bool]:
    """Tell whether some worker may claim an execution."""
    return Call(("EXISTS", ExecutionKeys.of(execution_id).part("claim_grant")), bool)


def is_active(execution_id: ExecutionId) -> Call[bool]:
    """Tell whether an execution runs."""
    core = ExecutionKeys.of(execution_id).core
    return Call(("HGET", core, "lifecycle_phase"), lambda reply: bool(reply == b"active"))


def admitted_page(at: QuotaKeys, cursor: bytes) -> Call[tuple[bytes, list[ExecutionId]]]:
    """Read some of the executions that a quota has admitted, and where to go on."""

    def parse(reply: tuple[bytes, list[bytes]]) -> tuple[bytes, list[ExecutionId]]:
        return reply[0], [ExecutionId(one.decode(errors="replace")) for one in reply[1]]

    return Call(("SSCAN", at.admitted_set, cursor, "COUNT", PAGE), parse)


def read_stamp(at: QuotaKeys, execution_id: ExecutionId) -> Call[str]:
    """Read when a quota has admitted an execution last; empty when that is not known."""
    return Call(("HGET", at.stamps, execution_id), lambda reply: (reply or b"").decode(errors="replace"))


def give_back(at: QuotaKeys, execution_id: ExecutionId, stamp: str) -> Call[bool]:
    """Give an execution's place in a quota back, unless it was admitted again; tell whether it had one."""
    touched = (at.definition, at.admitted(execution_id), at.admitted_set, at.concurrency, at.stamps)
    return fcall("ffsuper_give_back", touched, (execution_id, stamp), lambda status: status.text(0) == "given_back")


def is_used_up(limits: Mapping[str, str], usage: Mapping[str, str]) -> bool:
    """Tell whether a budget has reached one of its hard limits."""
    hard = {name.removeprefix("hard:"): number(limit) for name, limit in limits.items() if name.startswith("hard:")}
    return any(limit > 0 and number(usage.get(name, "")) >= limit for name, limit in hard.items())


def read_quota_room(at: QuotaKeys) -> Call[float]:
    """Read for how many more executions a quota has room; infinity without end."""
    keys_used = (at.definition, at.window, at.concurrency)
    return fcall("ffsuper_quota_room", keys_used, (), lambda status: float(status.text(0) or math.inf))


def number(text: str) -> float:
    """Read a number; 0 for what is none, or has no end."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def causes_page(index: Index, offset: int) -> Call[Causes]:
    """Tell what a page waits for."""

    def parse(status: Status) -> Causes:
        return Causes(status.number(0), counted(status.fields[1:]))

    return fcall("ffsuper_blocked_causes", (index.key,), (offset, PAGE), parse)


def release_page(index: Index, offset: int, room: Mapping[str, int]) -> Call[Released]:
    """Let executions of a page go."""

    def parse(status: Status) -> Released:
        seen, released, failed = (status.number(position) for position in range(3))
        example, why = (status.fields[position].decode(errors="replace") for position in (3, 4))
        return Released(seen, released, failed, example, why, counted(status.fields[5:]))

    pairs = [part for cause, count in room.items() for part in (cause.encode(errors="surrogateescape"), count)]
    return fcall("ffsuper_unblock", (index.key, index.beside("eligible")), (offset, PAGE, *pairs), parse)


def counted(fields: Sequence[bytes]) -> dict[str, int]:
    """Read causes and their counts; what is no text comes back to the store as it was."""
    return {
        cause.decode(errors="surrogateescape"): int(count)
        for cause, count in zip(fields[::2], fields[1::2], strict=True)
    }
