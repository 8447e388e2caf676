"""On a cluster-mode server: every key that a function touches, passed or built, is in one slot."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ffsuper.store import libraries
from tests.lua import budgets, claims, flows, frames, signals, suspensions, test_quota, test_renew_together
from tests.lua.executions import call_claim_resumed, call_reclaim, claim, claimed, create, grant, grant_reclaim
from tests.lua.holders import cancel, complete, delay, expire, fail, mark, promote, renew, revoke
from tests.lua.suspensions import EXECUTION, KEYS, PENDING, WAITPOINT, put
from tests.lua.test_admission import block, blocked, unblock
from tests.lua.test_priority import change_priority
from tests.lua.test_progress import report
from tests.lua.world import World
from tests.redis_server import running_server

RETRY = '{"max_retries":1,"backoff":{"type":"fixed","delay_ms":0}}'
LATER_MS = 4102444800000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Run one node that holds all slots."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, bus_port = one.getsockname()[1], other.getsockname()[1]
    options = ("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(bus_port))
    with running_server(folder, *options) as url, redis.Redis.from_url(url, protocol=2) as client:
        world = World(client)
        world.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        give_up_s = time.monotonic() + 20
        while b"cluster_state:ok" not in world.command("CLUSTER", "INFO"):
            assert time.monotonic() < give_up_s
        for name in (libraries.FLOWFABRIC, libraries.FFSUPER):
            client.function_load(libraries.assemble(name))
        yield world


def test_keys_of_other_slots_are_refused_by_this_server(cluster: World) -> None:
    assert "same slot" in str(cluster.try_call("ff_update_progress", ["{fp:1}", "{fp:2}"], []))


def test_an_execution_lives_from_creation_to_completion(cluster: World) -> None:
    lease = claim(cluster, create(cluster))
    assert renew(cluster, lease)[:2] == [1, "OK"]
    assert complete(cluster, lease, result="done") == [1, "OK", "completed"]


def test_a_retry_is_scheduled_promoted_and_claimed(cluster: World) -> None:
    lease = claim(cluster, create(cluster))
    assert fail(cluster, lease, RETRY)[2] == "retry_scheduled"
    assert promote(cluster, lease.keys, lease.execution_id, LATER_MS) == [1, "OK", "promoted"]
    assert claim(cluster, lease.keys).kind == "retry"


def test_a_delayed_attempt_is_resumed(cluster: World) -> None:
    lease = claim(cluster, create(cluster))
    assert delay(cluster, lease, delay_until=1)[:2] == [1, "OK"]
    promote(cluster, lease.keys, lease.execution_id, LATER_MS)
    grant(cluster, lease.keys)
    assert claimed(lease.keys, call_claim_resumed(cluster, lease.keys)).kind == "resumed"


def test_executions_of_every_kind_are_claimed_in_one_call(cluster: World) -> None:
    cluster.redis.flushall()
    plain = dict.fromkeys(("plain", "with deadline", "retried", "replayed", "resumed later"), "OK")
    expected = {**plain, "not capable": "capability_mismatch", "damaged attempts": "WRONGTYPE"}
    kinds = {str(claims.KINDS[kind](cluster).id): kind for kind in expected}
    outcomes = claims.outcomes_together(cluster, claims.offers(len(kinds)))
    answers = {one.execution_id: one.reply if isinstance(one.reply, str) else one.reply[1] for one in outcomes}
    assert {kinds[execution]: answer for execution, answer in answers.items()} == expected


def test_leases_of_every_kind_are_renewed_in_one_call(cluster: World) -> None:
    kinds = ("plain", "run out", "damaged lease", "gone", "with a stream")
    held = [test_renew_together.KINDS[kind](cluster) for kind in kinds]
    answers = test_renew_together.renew_together(cluster, held)
    words = [one if isinstance(one, str) else one[1] for one in answers]
    assert words == ["OK", "lease_expired", "WRONGTYPE", "execution_not_found", "OK"]


@pytest.mark.parametrize("how", ["expired", "revoked"])
def test_a_lost_lease_is_reclaimed(cluster: World, how: str) -> None:
    lease = claim(cluster, create(cluster))
    if how == "expired":
        put(cluster, lease.keys.core, lease_expires_at=1)
        assert mark(cluster, lease.keys, lease.execution_id) == [1, "OK", "marked_expired"]
    else:
        assert revoke(cluster, lease.keys, lease.execution_id)[2] == "revoked"
    grant_reclaim(cluster, lease.keys)
    assert claimed(lease.keys, call_reclaim(cluster, lease.keys)).kind == "reclaim"


@pytest.mark.parametrize("is_running", [False, True])
def test_executions_are_cancelled_and_expire(cluster: World, is_running: bool) -> None:
    to_cancel, to_expire = create(cluster), create(cluster)
    if is_running:
        claim(cluster, to_cancel)
        claim(cluster, to_expire)
    assert cancel(cluster, to_cancel)[:3] == [1, "OK", "cancelled"]
    assert expire(cluster, to_expire, to_expire.id, "execution_deadline")[:3] == [1, "OK", "expired"]


def test_priority_and_progress_are_changed(cluster: World) -> None:
    keys = create(cluster)
    assert change_priority(cluster, keys, "7") == [1, "OK", "3", "7"]
    assert report(cluster, claim(cluster, keys)) == [1, "OK"]


def test_an_execution_is_set_aside_and_comes_back(cluster: World) -> None:
    assert block(cluster, create(cluster)) == [1, "OK", "blocked"]
    assert unblock(cluster, blocked(cluster)) == [1, "OK", "unblocked"]


@pytest.mark.parametrize("delay_ms", ["0", "5000"])
def test_a_suspension_ends_by_a_signal_an_operator_or_its_timeout(cluster: World, delay_ms: str) -> None:
    cluster.redis.flushall()
    token = suspensions.put_suspended(cluster)
    delivered = signals.deliver(cluster, token, resume_delay_ms=delay_ms, idempotency_key="once", payload="yes")
    assert delivered == [1, "OK", "signal-1", "resume_condition_satisfied"]
    suspensions.put_suspended(cluster)
    assert suspensions.resume(cluster, EXECUTION, "operator", delay_ms)[:2] == [1, "OK"]
    suspensions.put_suspended(cluster, timeout_at="5")
    assert suspensions.expire(cluster, EXECUTION) == [1, "OK", "fail", "failed"]


def test_a_pending_waitpoint_buffers_a_signal_and_is_closed(cluster: World) -> None:
    cluster.redis.flushall()
    suspensions.put_active(cluster)
    token = suspensions.put_pending(cluster)
    assert signals.buffer(cluster, token)[:2] == [1, "OK"]
    waitpoint = [KEYS.core, KEYS.waitpoint(WAITPOINT), PENDING]
    assert cluster.call("ff_close_waitpoint", waitpoint, [WAITPOINT, "over"]) == [1, "OK"]


def test_frames_are_appended_and_read(cluster: World) -> None:
    cluster.redis.flushall()
    frames.running(cluster)
    assert frames.append(cluster)[:2] == [1, "OK"]
    assert len(frames.read(cluster, "-", "+", "10")[2]) == 1


def test_a_budget_is_created_used_and_reset(cluster: World) -> None:
    assert budgets.create(cluster, interval="60000") == [1, "OK", budgets.ID]
    assert budgets.report(cluster, ("tok", "5"), key=budgets.REPORT_KEY) == [1, "OK"]
    assert budgets.reset(cluster)[:2] == [1, "OK"]


def test_a_quota_admits_and_releases(cluster: World) -> None:
    assert test_quota.create(cluster, test_quota.ID, "60", "10", "2", test_quota.NOW) == [1, "OK", test_quota.ID]
    assert test_quota.check(cluster, rate="10", cap="2") == ["ADMITTED"]
    assert test_quota.release(cluster) == [1, "OK", "released"]


def test_a_flow_goes_from_its_creation_to_its_end(cluster: World) -> None:
    cluster.redis.flushall()
    a, b, c = flows.flow_of(cluster, 3)
    for edge_id, upstream, downstream in (("e1", b, c), ("e2", a, b)):
        assert flows.stage(cluster, upstream, downstream, edge_id=edge_id)[:2] == [1, "OK"]
        assert flows.apply(cluster, downstream, edge_id, data_passing_ref="result") == [1, "OK", "1"]
    assert flows.stage(cluster, c, a) == [0, "cycle_detected"]
    assert flows.evaluate(cluster, b) == [1, "OK", "blocked_by_dependencies"]
    assert flows.promote_blocked(cluster, b) == [0, "deps_not_satisfied", "1", "1"]
    cluster.redis.set(flows.UPSTREAM_RESULT, "out")
    assert flows.resolve(cluster, b, "e2") == [1, "OK", "satisfied", "data_injected"]
    assert flows.resolve(cluster, c, "e1", "failed") == [1, "OK", "impossible", "child_skipped"]
    assert flows.replay_skipped(cluster, c, "e1") == [1, "OK", "1"]
    assert sorted(flows.cancel_flow(cluster)[3:]) == sorted(keys.id for keys in (a, b, c))
