"""Reads that find work: the first members of the eligible indexes."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ffsuper.errors import StoreError, StoreScriptError
from ffsuper.messages import Candidate, ClaimKind, ExecutionId, LaneId
from ffsuper.sansio.scan import Place
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys, PartitionKeys, is_execution_id
from ffsuper.store.replies import Call

LOG = logging.getLogger(__name__)
T = TypeVar("T")

CANDIDATE_FIELDS = ("execution_kind", "attempt_state", "current_attempt_index")


@dataclass(frozen=True, slots=True)
class Page:
    """What one place held.

    Attributes:
        members: how many index members the page had, whatever they were.
        skipped: how many of them the caller did not want to see.
    """

    members: int
    skipped: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """Members of an index: how many, and the execution ids among them; others are nobody's work."""

    count: int
    ids: Sequence[ExecutionId]


class Scans:
    """What the scanner reads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def eligible(self, places: Sequence[Place], page: int, skip: Container[ExecutionId]) -> list[Page]:
        """Read one page of each place's eligible index, best candidates first.

        Members without a record are counted, but are no candidates.

        Args:
            page: members in a full page.
            skip: executions that are not looked at.
        """
        pages = await self._members([eligible_page(place, page) for place in places])
        looked_at = [[execution for execution in found.ids if execution not in skip] for found in pages]
        records = iter(await self._records([execution for found in looked_at for execution in found]))
        results = []
        for place, found, left in zip(places, pages, looked_at, strict=True):
            judged = [eligible_candidate(execution, place.lane, next(records)) for execution in left]
            candidates = tuple(one for one in judged if one is not None)
            results.append(Page(found.count, len(found.ids) - len(left), candidates))
        return results

    async def _members(self, calls: Sequence[Call[Members]]) -> list[Members]:
        return [found or Members(0, ()) for found in await self._read(calls)]

    async def _records(self, executions: Sequence[ExecutionId]) -> list[Record | None]:
        return await self._read([read_record(execution) for execution in executions])

    async def _read(self, calls: Sequence[Call[T]]) -> list[T | None]:
        """Read; None in the place of keys that hold something else than they should."""
        found: list[T | None] = []
        results = await self._connection.try_all(calls)
        for call, result in zip(calls, results, strict=True):
            if isinstance(result, StoreScriptError):
                LOG.warning("damaged key skipped", extra={"key": call.command[1], "error": result})
                found.append(None)
            elif isinstance(result, StoreError):
                raise result
            else:
                found.append(result)
        return found


@dataclass(frozen=True, slots=True)
class Record:
    """Fields of an execution; empty where missing."""

    execution_kind: str
    attempt_state: str
    attempt_index: int


def read_record(execution_id: ExecutionId) -> Call[Record]:
    """Read what a candidate needs to be judged."""

    def parse(reply: Any) -> Record:
        kind, attempt_state, index = ((part or b"").decode(errors="surrogateescape") for part in reply)
        return Record(kind, attempt_state, int(index) if index.isdecimal() else 0)

    return Call(("HMGET", ExecutionKeys.of(execution_id).core, *CANDIDATE_FIELDS), parse)


def eligible_page(place: Place, page: int) -> Call[Members]:
    """Read one page of an eligible index, best first."""
    index = PartitionKeys.of_index(place.partition).lane(place.lane, "eligible")
    return Call(("ZRANGE", index, place.offset, place.offset + page - 1), members)


def members(reply: Iterable[bytes]) -> Members:
    """Read members of an index."""
    texts = [member.decode(errors="replace") for member in reply]
    return Members(len(texts), [ExecutionId(text) for text in texts if is_execution_id(text)])


def eligible_candidate(execution_id: ExecutionId, lane: LaneId, record: Record | None) -> Candidate | None:
    """Return the candidate for a member of an eligible index, or None when its record is gone."""
    if record is None or not record.attempt_state:
        return None
    resumed = record.attempt_state == "attempt_interrupted"
    claim = ClaimKind.RESUMED if resumed else ClaimKind.NEW
    return Candidate(execution_id, lane, claim, record.execution_kind, record.attempt_index)
