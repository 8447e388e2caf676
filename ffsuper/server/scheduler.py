"""Decides which executions workers get next: within budget, within quota, for the right capabilities.

Workers that ask for the same, of one lane and with the same capabilities, are served together: one call asks all
partitions of the lane for their first execution, then the best of these for what they have, the oldest executions of
each priority. Among them the highest priority comes first, where waiting counts (``sansio.turns``), and each worker
is granted one. What may not run now is blocked with its reason, and the next one is looked at. The engine lets it go
when the reason has, and so does the scheduler itself where a quota has room again, which is often.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

import trio

from ffsuper.errors import StoreError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio import unblock
from ffsuper.sansio.turns import Waiting, in_turn, rank
from ffsuper.store.admission import Admission, Claimant, Obstacle
from ffsuper.store.looks import Index, indexes
from ffsuper.store.outage import STORE_AWAY

LOG = logging.getLogger(__name__)

# Partitions that are asked for executions in one round trip, the best by their first execution and some others:
# behind a first one there may be one that has waited for longer.
BEST_AT_ONCE = 6
OTHERS_AT_ONCE = 2
# Entries of one priority and partition that are looked at: a namespace with so many older ones hides the others.
# Fewer, of all partitions together, between two looks at all, while only one namespace has been seen.
DEPTH = 200
SHALLOW = 25
# Partitions on which a look lets go what had waited for a quota, and quotas.
RELIEVED_AT_ONCE = 16
QUOTAS_AT_ONCE = 32
# A quota with many places takes long to look at: so many times as long it is left alone.
REST = 10
# At least so many executions of each partition, priority and namespace are looked at.
PICK = 4
# Looks at the same partitions, while what they have has to be set aside.
TRIES = 10
# Where there was work a moment ago it is looked for again without a look at all partitions.
FRESH_S = 0.1
# Where there was none, those that wait do not look again for so long.
EMPTY_S = 0.05
# Lanes whose indexes are kept at hand; workers may name any.
LANES_KEPT = 64


@dataclass(frozen=True, slots=True)
class Granted:
    """What a worker may claim, until then in ms on the store's clock."""

    execution_id: ExecutionId
    expires_at_ms: int


class Answer(Enum):
    """What became of a candidate; somebody else was quicker when it was too late."""

    GRANTED = auto()
    TOO_LATE = auto()
    NOT_ADMITTED = auto()


@dataclass(frozen=True, slots=True)
class Places:
    """Partitions on which a lane has work, the best first, until when that is taken for granted.

    Attributes:
        is_mixed: more than one namespace has work there.
    """

    found: Sequence[Index]
    until_s: float
    is_mixed: bool = False


class Scheduler:
    """Grants executions. Any number may run: what it keeps is only where there was work a moment ago."""

    def __init__(self, admission: Admission, partitions: int) -> None:
        self._admission = admission
        self._partitions = range(partitions)
        self._places: dict[LaneId, Places] = {}
        self._wanted: dict[LaneId, dict[Index, float]] = {}
        self._relieve_at_s: dict[LaneId, float] = {}

    async def claim(self, lane: LaneId, claimants: Sequence[Claimant]) -> list[Granted | None]:
        """Grant to each of these workers, which have the same capabilities, the execution whose turn it is.

        Returns:
            What each was granted, in their order; None for those for whom there is nothing.

        Raises:
            StoreError: the store is away.
        """
        granted: list[Granted | None] = [None] * len(claimants)
        known = self._places.get(lane)
        if known is not None and known.found and known.until_s > trio.current_time():
            some, _ = some_of(known.found)
            shallow = max(PICK, math.ceil(max(SHALLOW, len(claimants)) / len(some)))
            await self._claim_from(some, lane, claimants, granted, depth=DEPTH if known.is_mixed else shallow)
            if all(granted):
                return granted
        left = await self._look(lane)
        while left and not all(granted):
            some, left = some_of(left)
            await self._claim_all_from(some, lane, claimants, granted)
        return granted

    def is_empty(self, lane: LaneId) -> bool:
        """Tell whether a look at the lane has found nothing just now."""
        known = self._places.get(lane)
        return known is not None and not known.found and known.until_s > trio.current_time()

    async def _look(self, lane: LaneId) -> Sequence[Index]:
        """Return the partitions on which there is work, the best by their first execution first."""
        due = await self._admission.due(self._indexes(lane))
        for index in due.damaged:
            LOG.warning("damaged key skipped", extra={"key": index.key})
        ranks = {
            index: rank(first.at_ms, first.now_ms) for index, first in due.first.items() if index.name == "eligible"
        }
        waiting = [index for index in due.first if index.name == "blocked:quota"]
        began_s = trio.current_time()
        if waiting and began_s >= self._relieve_at_s.get(lane, 0.0):
            for index in await self._relieve(random.sample(waiting, min(len(waiting), RELIEVED_AT_ONCE))):
                ranks.setdefault(Index("eligible", index.partition, lane), (0.0, math.inf))
            now_s = trio.current_time()
            self._relieve_at_s[lane] = now_s + REST * (now_s - began_s)
        found = sorted(ranks, key=ranks.__getitem__)
        self._places[lane] = Places(found, trio.current_time() + (FRESH_S if found else EMPTY_S))
        return found

    def _indexes(self, lane: LaneId) -> dict[Index, float]:
        """Return what a look asks for, at hand for the lanes of late."""
        if lane not in self._wanted:
            if len(self._wanted) >= LANES_KEPT:
                for kept in (self._wanted, self._places, self._relieve_at_s):
                    kept.clear()
            names = ("eligible", "blocked:quota")
            everywhere = [index for name in names for index in indexes(name, self._partitions, [lane])]
            self._wanted[lane] = dict.fromkeys(everywhere, -math.inf)
        return self._wanted[lane]

    async def _relieve(self, waiting: Sequence[Index]) -> list[Index]:
        """Let executions go that waited for quotas that have room now; return where there were any."""
        causes = set[str]()
        for index, page in zip(waiting, await self._admission.causes([(index, 0) for index in waiting]), strict=True):
            if isinstance(page, StoreError):
                LOG.warning("damaged key skipped", extra={"key": index.key, "error": page})
            else:
                causes |= page.counts.keys()
        asked = random.sample(sorted(causes), min(len(causes), QUOTAS_AT_ONCE))
        room, relieved = unblock.within_quota(asked, await self._admission.quota_room(asked)), list[Index]()
        for index in waiting:
            if not any(room.values()):
                break
            (released,) = await self._admission.release([(index, 0, room)])
            if not isinstance(released, StoreError) and released.released:
                relieved.append(index)
                room = {cause: count - released.used.get(cause, 0) for cause, count in room.items()}
        return relieved

    async def _claim_all_from(
        self, places: Sequence[Index], lane: LaneId, claimants: Sequence[Claimant], granted: list[Granted | None]
    ) -> None:
        """Grant what these partitions have, though there is much before it that has to be set aside."""
        count = PICK
        for _ in range(TRIES):
            if not await self._claim_from(places, lane, claimants, granted, count) or all(granted):
                break
            count = DEPTH

    async def _claim_from(
        self,
        places: Sequence[Index],
        lane: LaneId,
        claimants: Sequence[Claimant],
        granted: list[Granted | None],
        at_least: int = PICK,
        depth: int = DEPTH,
    ) -> bool:
        """Grant what these partitions have to workers that have nothing yet; tell whether something was set aside.

        Args:
            at_least: so many executions of each priority and namespace are looked at.
        """
        count, capabilities = max(at_least, granted.count(None)), claimants[0].capabilities
        waiting, now_ms = list[Waiting](), 0
        picks = await self._admission.pick(places, capabilities, count, depth)
        for index, picked in zip(places, picks, strict=True):
            if isinstance(picked, STORE_AWAY):
                raise picked
            if isinstance(picked, StoreError):
                LOG.warning("damaged key skipped", extra={"key": index.key, "error": picked})
                continue
            waiting += picked.waiting
            now_ms = max(now_ms, picked.now_ms)
        if not waiting:
            return False
        namespaces = sorted({one.namespace for one in waiting})
        if len(namespaces) > 1 and lane in self._places:
            self._places[lane] = replace(self._places[lane], is_mixed=True)
        turns = await self._admission.last_turns(lane, namespaces) if len(namespaces) > 1 else {}
        affordable = await self._within_budget(lane, waiting, now_ms)
        had_turns, turn, not_admitted = dict[str, float](), max([now_ms, *turns.values()]), False
        candidates = in_turn(affordable, turns, now_ms)
        while (free := [place for place, one in enumerate(granted) if one is None]) and (
            batch := list(itertools.islice(candidates, len(free)))
        ):
            pairs = list(zip(batch, [claimants[place] for place in free], strict=False))
            answers = await self._grant(lane, pairs, now_ms)
            not_admitted = not_admitted or Answer.NOT_ADMITTED in answers
            for place, (one, claimant), answer in zip(free, pairs, answers, strict=False):
                if answer is Answer.GRANTED:
                    granted[place] = Granted(one.execution_id, now_ms + claimant.grant_ttl_ms)
                    turn += 1
                    had_turns[one.namespace] = turn
        if had_turns and len(namespaces) > 1:
            await self._admission.note_turns(lane, had_turns)
        return len(affordable) < len(waiting) or not_admitted

    async def _within_budget(self, lane: LaneId, waiting: Sequence[Waiting], now_ms: int) -> list[Waiting]:
        """Return the executions whose budgets are not used up; the others are set aside."""
        budgets = {one.execution_id: unblock.budget_ids(one.budget_ids) for one in waiting if one.budget_ids}
        if not budgets:
            return list(waiting)
        used_up = await self._admission.used_up(frozenset[str]().union(*budgets.values()))
        spent = {one: ids & used_up for one, ids in budgets.items() if ids & used_up}
        obstacles = [
            Obstacle(one, "blocked:budget", f"budget {', '.join(sorted(ids))} is used up")
            for one, ids in spent.items()
        ]
        if obstacles:
            await self._admission.set_aside(lane, obstacles, now_ms)
        return [one for one in waiting if one.execution_id not in spent]

    async def _grant(self, lane: LaneId, pairs: Sequence[tuple[Waiting, Claimant]], now_ms: int) -> list[Answer]:
        """Grant each execution to its worker. Those that a quota does not admit are set aside."""
        answers = await self._admission.grant(lane, [(one.execution_id, claimant) for one, claimant in pairs])
        for answer in answers:
            if isinstance(answer, STORE_AWAY):
                raise answer
        granted = {answer for answer in answers if not isinstance(answer, StoreError)}
        limited = {one.execution_id: one.quota_id for one, _ in pairs if one.quota_id and one.execution_id in granted}
        details = await self._admission.obstacles(limited)
        if details:
            obstacles = [Obstacle(one, "blocked:quota", detail) for one, detail in details.items()]
            await self._admission.take_back(lane, obstacles, now_ms)
        return [
            Answer.NOT_ADMITTED
            if one.execution_id in details
            else Answer.GRANTED
            if one.execution_id in granted
            else Answer.TOO_LATE
            for one, _ in pairs
        ]


def some_of(places: Sequence[Index]) -> tuple[Sequence[Index], Sequence[Index]]:
    """Return the places that are asked next, and those that are left, in their order."""
    others = places[BEST_AT_ONCE:]
    chosen = random.sample(others, min(OTHERS_AT_ONCE, len(others)))
    return [*places[:BEST_AT_ONCE], *chosen], [place for place in others if place not in chosen]
