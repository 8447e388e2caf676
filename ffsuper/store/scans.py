"""Reads that find work: the first members of the eligible indexes, or whether there are any for us."""

from __future__ import annotations

import logging
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ffsuper.errors import StoreError, StoreScriptError
from ffsuper.messages import Candidate, ClaimKind, ExecutionId, LaneId
from ffsuper.sansio.scan import Place
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys, PartitionKeys, is_execution_id
from ffsuper.store.replies import Call, Part, Status, fcall

LOG = logging.getLogger(__name__)
T = TypeVar("T")
Group = list[Place]  # all of one lane, and in one slot where there are slots

# Members of an index that are looked at in one go.
PAGE = 32
# The server takes so many keys at a time, and more.
MOST_PLACES = 1000
ANY_SLOT = -1
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """A place where executions wait.

    Attributes:
        members: how many index members its page has, whatever they are; a full page has ``PAGE``.
        skipped: how many of them come before the first that could be claimed; all when there is none.
        first: that execution.
    """

    place: Place
    members: int
    skipped: int
    first: ExecutionId | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at places of one server has found.

    Attributes:
        damaged: what is no index, and the error.
        away: what another server has by now.
    """

    waiting: Mapping[Place, Waiting]
    damaged: Mapping[Place, StoreScriptError]
    away: Sequence[Place]


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

    async def waiting(self, places: Sequence[Place], kinds: Collection[str]) -> list[Waiting]:
        """Look which places have members, and which of these come first for us; one call to each server.

        Args:
            kinds: of executions that are ours; none for any kind.

        Returns:
            list in the order of ``places``, of those that have members and that a server which can be reached has.

        Raises:
            LibraryMissingError: library ``ffsuper`` lacks the function.
            StoreError: no server can be reached.
        """
        nodes = await self._by_node(places)
        seen = await self._connection.run_where_reached([look_at(groups, kinds) for groups in nodes])
        for place, error in (pair for one in seen for pair in one.damaged.items()):
            warn(index_of(place), error)
        # To touch it where it is by now lets a later look find it there.
        moved = [Call(("EXISTS", index_of(place)), bool) for one in seen for place in one.away]
        await self._connection.try_all(moved)
        found = {place: waiting for one in seen for place, waiting in one.waiting.items()}
        return [found[place] for place in places if place in found]

    async def _by_node(self, places: Sequence[Place]) -> list[list[Group]]:
        """Return for each node of a cluster its places in groups; without one there is one node."""
        partitions = list(dict.fromkeys(place.partition for place in places))
        names = await self._connection.nodes_of([PartitionKeys.of_index(one).noop for one in partitions])
        node_of = dict(zip(partitions, names, strict=True))
        nodes: dict[str, dict[tuple[LaneId, int], Group]] = {}
        for place in places:
            node = node_of[place.partition]
            groups = nodes.setdefault(node, {})
            groups.setdefault((place.lane, place.partition if node else ANY_SLOT), []).append(place)
        return [list(groups.values()) for groups in nodes.values()]

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
                warn(str(call.command[1]), result)
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


def look_at(groups: Sequence[Group], kinds: Collection[str]) -> Call[Seen]:
    """Look at places of one server, for executions of these kinds, none for any kind."""
    places = [place for group in groups for place in group]
    lanes = {lane: number for number, lane in enumerate(dict.fromkeys(group[0].lane for group in groups), start=1)}
    offsets = [part for at, place in enumerate(places) if place.offset for part in (at, place.offset)]
    args: list[Part] = [PAGE, len(kinds), *kinds, len(lanes), *lanes, len(offsets) // 2, *offsets]
    for group in groups:
        for first in range(0, len(group), MOST_PLACES):
            some = group[first : first + MOST_PLACES]
            args += [len(some), lanes[some[0].lane], *(place.partition for place in some)]
    return fcall("ffsuper_waiting", (index_of(places[0]),), tuple(args), lambda status: seen_at(places, status))


def seen_at(places: Sequence[Place], status: Status) -> Seen:
    """Read the answer to a look at these places."""
    found, damaged, away = dict[Place, Waiting](), dict[Place, StoreScriptError](), list[Place]()
    fields = iter(status.fields)
    for position, state, members_seen, skipped, text in zip(*[fields] * 5, strict=True):
        place = places[int(position)]
        if state == b"waiting":
            first = ExecutionId(text.decode(errors="replace")) if text else None
            found[place] = Waiting(place, int(members_seen), int(skipped), first)
        elif state == b"damaged":
            damaged[place] = StoreScriptError(text.decode(errors="replace"))
        else:
            away.append(place)
    return Seen(found, damaged, away)


def warn(key: str, error: StoreScriptError) -> None:
    """Tell of a key that holds something else than it should."""
    LOG.warning("damaged key skipped", extra={"key": key, "error": error})


def index_of(place: Place) -> str:
    """Return the key of a place's eligible index."""
    return PartitionKeys.of_index(place.partition).lane(place.lane, "eligible")


def eligible_page(place: Place, page: int) -> Call[Members]:
    """Read one page of an eligible index, best first."""
    return Call(("ZRANGE", index_of(place), place.offset, place.offset + page - 1), members)


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
