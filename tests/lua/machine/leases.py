"""What the holder of a lease does, rightly and too late, and how leases are lost and taken over."""

from __future__ import annotations

import json

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.lua import by_name
from tests.lua.executions import POOL, TTL_MS, WORKER
from tests.lua.machine.calls import PICK, Calls, Pick
from tests.lua.machine.life import HELD, OK, Fence
from tests.lua.suspensions import FAR_MS, put
from tests.lua.world import Arg


class Leases(Calls):
    """Renewals, outcomes, expiry, revocation and reclaim."""

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1, 2]))
    def renew(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        self.holds(
            "ff_renew_lease", life, self.fence_of(life, age), lease_ttl_ms=TTL_MS, lease_history_grace_ms=5_000
        )

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def progress(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        fence = self.fence_of(life, age)
        if fence.attempt_id == self.fence_of(life, 0).attempt_id or not age:
            self.holds("ff_update_progress", life, fence, marks=False, progress_pct=5)

    @rule(pick=PICK)
    def append_frame(self, pick: Pick) -> None:
        life = self.one(pick, "held")
        fence = self.fence_of(life, 0)
        fenced: dict[str, Arg] = {"lease_id": fence.lease_id, "lease_epoch": fence.epoch}
        limits: dict[str, Arg] = {"retention_maxlen": 9, "max_payload_bytes": 99}
        reply = self.call("ff_append_frame", life, **fenced, attempt_index=fence.index, frame_type="t", **limits)
        if life.state == "held":
            assert reply[:2] == OK
        else:
            assert reply == [0, "stale_owner_cannot_append" if life.state in HELD else "stream_closed"]

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def complete(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        if self.holds("ff_complete_execution", life, self.fence_of(life, age), result="done") == [*OK, "completed"]:
            life.end("success")

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def fail(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        policy = {"max_retries": life.max_retries, "backoff": {"type": "fixed", "delay_ms": 3_600_000}}
        fence = self.fence_of(life, age)
        reply = self.holds("ff_fail_execution", life, fence, failure_reason="no", retry_policy=json.dumps(policy))
        if reply is None:
            return
        if life.retries < life.max_retries:
            assert reply[2] == "retry_scheduled"
            life.release("delayed", interrupted=False)
            life.retries += 1
            life.next_type = "retry"
        else:
            assert reply == [*OK, "terminal_failed"]
            life.end("failed")

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def delay(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        if self.holds("ff_delay_execution", life, self.fence_of(life, age), delay_until=FAR_MS):
            life.release("delayed", interrupted=True)

    @rule(pick=PICK, age=st.sampled_from([0, 0, 0, 1]))
    def wait_for_children(self, pick: Pick, age: int) -> None:
        life = self.one(pick, "held")
        if self.holds("ff_move_to_waiting_children", life, self.fence_of(life, age)):
            life.release("dependencies", interrupted=True)

    @rule(pick=PICK)
    @precondition(lambda self: any(life.state == "held" for life in self.all))
    def run_out(self, pick: Pick) -> None:
        """Let the lease's time pass: its end is moved into the past."""
        life = self.one(pick, "held")
        if life.state == "held":
            put(self.world, life.keys.core, lease_expires_at=1)
            self.world.redis.zadd(life.keys.partition.index("lease_expiry"), {life.keys.id: 1})
            life.state = "outdated"

    @rule(pick=PICK)
    def mark(self, pick: Pick) -> None:
        life = self.one(pick, "outdated")
        answers = {"held": "not_yet_expired", "expired": "already_expired", "revoked": "already_revoked"}
        reply = self.call("ff_mark_lease_expired_if_due", life)
        if life.state == "outdated":
            assert reply == [*OK, "marked_expired"]
            life.state = "expired"
        else:
            assert reply == [1, "ALREADY_SATISFIED", answers.get(life.state, "not_active")]

    @rule(pick=PICK)
    def revoke(self, pick: Pick) -> None:
        life = self.one(pick, "held", "outdated")
        reply = self.call("ff_revoke_lease", life, reason="operator")
        if life.state in ("held", "outdated"):
            assert reply == [*OK, "revoked", life.fences[-1].lease_id, str(life.epoch)]
            life.state = "revoked"
        elif life.state in ("expired", "revoked"):
            assert reply == [1, "ALREADY_SATISFIED", f"already_{life.state}"]
        else:
            assert reply == life.not_active()

    @rule(pick=PICK)
    def reclaim(self, pick: Pick) -> None:
        life = self.one(pick, "expired", "revoked")
        granted = self.call("ff_issue_reclaim_grant", life, worker_id=POOL, grant_ttl_ms=60_000)
        if life.state not in ("expired", "revoked"):
            assert granted == [0, "execution_not_reclaimable"]
            return
        assert granted == [*OK, life.keys.id]
        fence = Fence(self.new_id(), life.epoch + 1, self.new_id(), life.attempts)
        ids: dict[str, Arg] = {"lease_id": fence.lease_id, "attempt_id": fence.attempt_id, "lease_ttl_ms": TTL_MS}
        identity: dict[str, Arg] = {"worker_id": POOL, "worker_instance_id": WORKER, "lane_id": by_name.LANE}
        reply = self.call("ff_reclaim_execution", life, **ids, **identity)
        if life.reclaims >= life.max_reclaims:
            assert reply == [0, "max_retries_exhausted"]
            self.world.redis.delete(life.keys.part("claim_grant"))  # it would lapse by itself
            life.end("failed")
            return
        assert reply[:2] == OK
        assert reply[3] == str(fence.epoch)
        assert reply[6:] == [str(fence.index), "reclaim"]
        life.reclaims += 1
        life.has_timeout = False
        life.runs(fence)
