"""How executions begin, and what sets them aside and brings them back."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from ffsuper.messages import ExecutionId
from ffsuper.store.keys import ExecutionKeys
from tests.lua import by_name, flows
from tests.lua.executions import POOL, TTL_MS, WORKER
from tests.lua.machine.calls import MOST_LIVES, PICK, Calls, Pick
from tests.lua.machine.life import HELD, OK, Fence, Life
from tests.lua.suspensions import FAR_MS, SECRET
from tests.lua.world import Arg

NEVER = 2**62


class Beginnings(Calls):
    """Creation, grants and claims, delays, admission."""

    @initialize()
    def empty(self) -> None:
        self.world.redis.flushall()
        self.world.command("HSET", "ff:sec:{fp:7}:waitpoint_hmac", "current_kid", "k1", "secret:k1", SECRET)
        assert flows.create_flow(self.world)[:2] == OK
        for number in range(3):
            self.create(delayed=False, deadline=number > 0, max_retries=number, max_reclaims=number, priority=number)

    @precondition(lambda self: len(self.all) < MOST_LIVES)
    @rule(
        delayed=st.sampled_from([False, False, True]),
        deadline=st.booleans(),
        max_retries=st.integers(0, 2),
        max_reclaims=st.integers(0, 2),
        priority=st.integers(-1, 3),
    )
    def create(self, delayed: bool, deadline: bool, max_retries: int, max_reclaims: int, priority: int) -> None:
        keys = ExecutionKeys.of(ExecutionId(f"{{fp:7}}:{self.new_id()}"))
        life = Life(keys, max_retries, max_reclaims, "delayed" if delayed else "eligible", has_deadline=deadline)
        args: dict[str, Arg] = {
            "lane_id": by_name.LANE,
            "priority": priority,
            "policy": json.dumps({"max_reclaim_count": max_reclaims}),
            "delay_until": FAR_MS if delayed else "",
            "execution_deadline": FAR_MS if deadline else "",
            "tags": "{}",
        }
        index = {"lane_index": keys.partition.lane(by_name.LANE, life.state)}
        reply = self.call_with(index, "ff_create_execution", life, **args)
        assert reply == [*OK, keys.id, "delayed" if delayed else "waiting"]
        assert self.call_with(index, "ff_create_execution", life, **args) == [1, "DUPLICATE", keys.id]
        self.all.append(life)

    @rule(pick=PICK, asks_for_resumed=st.sampled_from([None, None, None, False, True]), timeout=st.booleans())
    def claim(self, pick: Pick, asks_for_resumed: bool | None, timeout: bool) -> None:
        """Grant and claim; by the wrong one of the two functions first, if so asked."""
        life = self.one(pick, "eligible")
        granted = self.call("ff_issue_claim_grant", life, worker_id=POOL, grant_ttl_ms=60_000)
        if life.state != "eligible":
            assert granted == [0, "execution_not_eligible"]
            return
        assert granted == [*OK, life.keys.id]
        if asks_for_resumed is not None and asks_for_resumed != life.interrupted:
            code = "not_a_resumed_execution" if asks_for_resumed else "use_claim_resumed_execution"
            assert self.take(life, asks_for_resumed, POOL) == [0, code]
        assert self.take(life, life.interrupted, "another") == [0, "invalid_claim_grant"]
        fence, kind = Fence(self.new_id(), life.epoch + 1, self.new_id(), life.attempts), life.next_type
        if life.interrupted:
            latest = life.fences[-1]
            fence, kind = Fence(fence.lease_id, fence.epoch, latest.attempt_id, latest.index), "resumed"
        reply = self.take(life, life.interrupted, POOL, fence, attempt_timeout_ms=9_000_000 if timeout else "")
        assert (reply[:4], reply[5:]) == (
            [*OK, fence.lease_id, str(fence.epoch)],
            [fence.attempt_id, str(fence.index), kind],
        )
        life.runs(fence)
        life.has_timeout = timeout
        self.seen[f"begins {kind}"] += 1

    def take(self, life: Life, resumed: bool, worker_id: str, fence: Fence | None = None, **args: Arg) -> Any:
        function = "ff_claim_resumed_execution" if resumed else "ff_claim_execution"
        values: dict[str, Arg] = {"lease_id": fence.lease_id if fence else "x", "lease_ttl_ms": TTL_MS}
        if not resumed:
            values |= {"attempt_id": fence.attempt_id if fence else "x", "renew_before_ms": 20_000}
        identity = {"worker_id": worker_id, "worker_instance_id": WORKER, "lane_id": by_name.LANE}
        return self.call(function, life, **values, **identity, **args)

    @rule(pick=PICK)
    def promote(self, pick: Pick) -> None:
        life = self.one(pick, "delayed")
        reply = self.call("ff_promote_delayed", life, now_ms=NEVER)
        if life.state == "delayed":
            assert reply == [*OK, "promoted"]
            life.state = "eligible"
        else:
            assert reply[:2] == OK
            assert reply[2].endswith("_cleaned")

    @rule(pick=PICK, priority=st.integers(-1, 9001))
    def change_priority(self, pick: Pick, priority: int) -> None:
        life = self.one(pick, "eligible")
        reply = self.call("ff_change_priority", life, new_priority=priority)
        assert (reply[:2] == OK) if life.state == "eligible" else (reply == [0, "execution_not_eligible"])

    @rule(pick=PICK)
    def block(self, pick: Pick) -> None:
        life = self.one(pick, "eligible")
        reply = (
            self.call_with(
                {"blocked": life.keys.partition.lane(by_name.LANE, "blocked:budget")},
                "ff_block_execution_for_admission",
                life,
                blocking_reason="waiting_for_budget",
                now_ms=5,
            )
            if life.state in ("eligible", "terminal", *HELD)
            else None
        )
        if life.state == "eligible":
            assert reply == [*OK, "blocked"]
            life.state = "budget"
        elif reply:
            assert reply == (life.not_active() if life.state == "terminal" else [0, "execution_not_eligible"])

    @rule(pick=PICK)
    def unblock(self, pick: Pick) -> None:
        life = self.one(pick, "budget")
        index = {"blocked": life.keys.partition.lane(by_name.LANE, "blocked:budget")}
        reply = self.call_with(index, "ff_unblock_execution", life, now_ms=5)
        assert reply == ([*OK, "unblocked"] if life.state == "budget" else [0, "execution_not_eligible"])
        life.state = "eligible" if life.state == "budget" else life.state
