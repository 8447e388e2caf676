"""What must be true of the keyspace after every call, whatever has happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.lua import flows
from tests.lua.by_name import LANE
from tests.lua.executions import WORKER
from tests.lua.machine.life import HELD, INDEX, Life
from tests.lua.world import World

LANE_INDEXES = sorted({*INDEX.values(), *(f"blocked:{why}" for why in ("quota", "route", "operator"))})


class Watch:
    """Compares all executions with their models, and each with what it was before.

    Attributes:
        behavior: execution id to its suspension's timeout behaviour; empty for no timeout.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.behavior: dict[str, str] = {}
        self._before: dict[str, dict[str, str]] = {}

    def members(self, life: Life, index: str) -> Any:
        """Return the members of an index of the partition."""
        return self.world.value(life.keys.partition.index(index)) or {}

    def check(self, lives: Sequence[Life]) -> None:
        """Assert all of it."""
        if not lives:
            return
        partition = lives[0].keys.partition
        lanes = {name: self.world.value(partition.lane(LANE, name)) or {} for name in LANE_INDEXES}
        leased = self.world.value(partition.worker_leases(WORKER)) or set()
        timed = {name: self.members(lives[0], name) for name in ("lease_expiry", "attempt_timeout")}
        timed |= {name: self.members(lives[0], name) for name in ("execution_deadline", "suspension_timeout")}
        for life in lives:
            execution_id = life.keys.id
            record = self.world.value(life.keys.core)
            here = [name for name, members in lanes.items() if execution_id in members]
            assert here == [INDEX[life.state]], f"{execution_id} is {life.state}, and in {here}"
            self.check_lease(life, record, execution_id in timed["lease_expiry"], execution_id in leased)
            assert (execution_id in timed["attempt_timeout"]) == life.has_timeout
            assert (execution_id in timed["execution_deadline"]) == life.has_deadline
            waits = life.state == "suspended" and self.behavior.get(execution_id, "") != ""
            assert (execution_id in timed["suspension_timeout"]) == waits
            self.check_record(life, record)
        self.check_flow(lives)

    def check_lease(self, life: Life, record: dict[str, str], in_expiry: bool, in_set: bool) -> None:
        """At most one lease, and everything that speaks of it agrees."""
        has_lease = life.state in ("held", "outdated", "expired")
        assert in_expiry == has_lease
        assert in_set == has_lease
        current = self.world.value(life.keys.part("lease:current")) or {}
        if life.state in HELD:
            fence = life.fences[-1]
            found = (record["current_lease_id"], record["current_attempt_id"], record["current_attempt_index"])
            assert found == (fence.lease_id, fence.attempt_id, str(fence.index))
        if has_lease:
            assert current["lease_id"] == life.fences[-1].lease_id
        else:
            assert not current

    def check_record(self, life: Life, record: dict[str, str]) -> None:
        """Counters are the model's; what only grows has grown; the end is the end."""
        assert record["lifecycle_phase"] == life.phase
        counted = ("current_lease_epoch", "total_attempt_count", "retry_count", "lease_reclaim_count", "replay_count")
        expected = (life.epoch, life.attempts, life.retries, life.reclaims, life.replays)
        assert tuple(int(record[name]) for name in counted) == expected
        ended = life.state == "terminal"
        assert record["terminal_outcome"] == (life.outcome if ended else "none")
        assert (record["completed_at"] != "") == ended
        before = self._before.get(life.keys.id)
        if before is not None:
            assert all(int(record[name]) >= int(before[name]) for name in counted)
            if before["lifecycle_phase"] == "terminal" and before["replay_count"] == record["replay_count"]:
                assert record["lifecycle_phase"] == "terminal"
                assert record["terminal_outcome"] == before["terminal_outcome"]
        self._before[life.keys.id] = record

    def check_flow(self, lives: Sequence[Life]) -> None:
        """The flow counts its members, and each child its edges."""
        flow = self.world.value(flows.FLOW_CORE)
        members = [life.keys.id for life in lives if life.in_flow]
        assert int(flow["node_count"]) == len(members)
        assert (self.world.value(flows.MEMBERS) or set()) == set(members)
        for life in lives:
            meta = self.world.value(life.keys.part("deps:meta")) or {}
            assert int(meta.get("unsatisfied_required_count", 0)) == life.open_count
            assert int(meta.get("impossible_required_count", 0)) == len(life.impossible)
            assert (self.world.value(life.keys.part("deps:unresolved")) or set()) == life.open_edges
