"""Decides which execution a worker gets next: within budget, within quota, for the right capabilities.

One call asks all partitions of the lane which have anything, then some of these what they have: the oldest executions
of each priority. Among them the highest priority comes first, where waiting counts: so long is worth one level more.
At one level the namespace that has waited longest for its turn comes first, then the older execution. What may not
run now is blocked with its reason, and the next one is looked at; the engine lets it go when the reason has.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ffsuper.errors import RefusedError, StoreError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio import unblock
from ffsuper.store.admission import Admission, Claimant, Quota, Waiting
from ffsuper.store.looks import Index, indexes
from ffsuper.store.outage import STORE_AWAY

LOG = logging.getLogger(__name__)

# Waiting for so long is worth one level of priority.
AGEING_MS = 10_000
# Partitions that are asked for executions in one round trip.
PARTITIONS_AT_ONCE = 64
ADMITTED = ("ADMITTED", "ALREADY_ADMITTED")


@dataclass(frozen=True, slots=True)
class Granted:
    """What a worker may claim, until then in ms on the store's clock."""

    execution_id: ExecutionId
    expires_at_ms: int


class Scheduler:
    """Grants executions, one at a time. It keeps no state: any number may run."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def claim(self, lane: LaneId, claimant: Claimant) -> Granted | None:
        """Grant the execution whose turn it is; None when there is none for this worker.

        Raises:
            StoreError: the store is away.
        """
        wanted = indexes("eligible", range(self._admission.counts.flow), [lane])
        present = await self._admission.present(wanted)
        random.shuffle(present)
        while present:
            some, present = present[:PARTITIONS_AT_ONCE], present[PARTITIONS_AT_ONCE:]
            granted = await self._claim_from(some, lane, claimant)
            if granted is not None:
                return granted
        return None

    async def _claim_from(self, places: Sequence[Index], lane: LaneId, claimant: Claimant) -> Granted | None:
        waiting, now_ms = list[Waiting](), 0
        for index, picked in zip(places, await self._admission.pick(places, claimant.capabilities), strict=True):
            if isinstance(picked, STORE_AWAY):
                raise picked
            if isinstance(picked, StoreError):
                LOG.warning("damaged key skipped", extra={"key": index.key, "error": picked})
                continue
            waiting += picked.waiting
            now_ms = max(now_ms, picked.now_ms)
        if not waiting:
            return None
        turns = await self._admission.last_turns(lane, sorted({one.namespace for one in waiting}))
        waiting.sort(key=lambda one: (-level(one, now_ms), turns[one.namespace], one.created_at_ms))
        named = frozenset[str]().union(*(unblock.budget_ids(one.budget_ids) for one in waiting))
        used_up = await self._admission.used_up(named)
        quotas = await self._admission.quotas(sorted({one.quota_id for one in waiting if one.quota_id}))
        for one in waiting:
            spent = unblock.budget_ids(one.budget_ids) & used_up
            if spent:
                detail = f"budget {', '.join(sorted(spent))} is used up"
                await self._admission.block(lane, one, "blocked:budget", "waiting_for_budget", detail, now_ms)
                continue
            quota = quotas.get(one.quota_id)
            admitted = await self._admits(lane, one, quota, now_ms)
            if admitted and await self._grants(lane, one, quota, claimant, now_ms):
                return Granted(one.execution_id, now_ms + claimant.grant_ttl_ms)
        return None

    async def _admits(self, lane: LaneId, one: Waiting, quota: Quota | None, now_ms: int) -> bool:
        if quota is None or not quota.is_limited:
            return True
        told = await self._admission.admit(one, quota, now_ms)
        if told not in ("RATE_EXCEEDED", "CONCURRENCY_EXCEEDED"):
            return True
        limit = f"rate limit {quota.rate:g} per {quota.window_s:g}s window"
        if told == "CONCURRENCY_EXCEEDED":
            limit = f"concurrency cap {quota.cap:g}"
        detail = f"quota {one.quota_id}: {limit}"
        await self._admission.block(lane, one, "blocked:quota", "waiting_for_quota", detail, now_ms)
        return False

    async def _grants(self, lane: LaneId, one: Waiting, quota: Quota | None, claimant: Claimant, now_ms: int) -> bool:
        refusal = await self._admission.grant(lane, one, claimant, now_ms)
        if refusal is None:
            return True
        if quota is not None:
            await self._admission.give_back(one)
        if not isinstance(refusal, RefusedError):
            raise refusal
        return False


def level(waiting: Waiting, now_ms: float) -> int:
    """Return an execution's priority, with what its waiting is worth."""
    return waiting.priority + int(max(0.0, now_ms - waiting.created_at_ms) // AGEING_MS)
