"""Damage everywhere in the store: the engine and the workers go on with what is sound, and say so once."""

from __future__ import annotations

import json
import random
from typing import Any

import redis

from ffsuper.client import Client
from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import of_bytes
from ffsuper.store.announcements import COMPLETIONS, LEASE_ENDS
from ffsuper.store.keys import LANES, WORKERS, ExecutionKeys, PartitionKeys, worker_capabilities
from tests.system.workers import LIMIT_S, Workers

PARTITION_INDEXES = (
    *("lease_expiry", "attempt_timeout", "execution_deadline", "suspension_timeout", "pending_waitpoint_expiry"),
    *("all_executions", "flow_index"),
)
LANE_INDEXES = (
    *("delayed", "terminal", "eligible", "blocked:route", "blocked:budget", "blocked:quota", "blocked:dependencies"),
)
STATES = ("", "active", "runnable", "suspended", "terminal", "nonsense", "-1", b"\xff", "lease_expired_reclaimable")
FIELDS = (
    *("lifecycle_phase", "eligibility_state", "ownership_state", "blocking_reason", "terminal_outcome", "lane_id"),
    *("current_attempt_index", "total_attempt_count", "lease_expires_at", "delay_until", "completed_at", "priority"),
    *("created_at", "flow_id", "current_waitpoint_id", "attempt_state", "required_capabilities", "execution_kind"),
)
SEED = 11


def damage(store: redis.Redis, sound: int) -> None:
    """Put keys of the wrong type, torn records and members without any into all partitions but one."""
    chance = random.Random(SEED)
    for number in (number for number in range(256) if number != sound):
        partition = PartitionKeys.of_index(number)
        keys = [partition.index(name) for name in PARTITION_INDEXES]
        keys += [partition.lane("default", name) for name in LANE_INDEXES]  # type: ignore[arg-type]
        pipeline = store.pipeline(transaction=False)
        for key in keys:
            kind = chance.choice(("string", "members", "members"))
            if kind == "string":
                pipeline.set(key, "damaged")
                continue
            names = [f"{partition.tag}:00000000-0000-4000-8000-{chance.randrange(10):012}" for _ in range(3)]
            members = [name.encode() for name in names]
            members.append(chance.choice((b"", b"nonsense", b"{fp:1}", b"\xff\xfe", b"x" * 1_000)))
            if key.endswith(("all_executions", "flow_index")):
                pipeline.sadd(key, *members)
            else:
                pipeline.zadd(key, {member: chance.choice((0, 1, 1e15, float("-inf"))) for member in members})
        for member in range(10):
            at = ExecutionKeys.of(ExecutionId(f"{partition.tag}:00000000-0000-4000-8000-{member:012}"))
            match chance.randrange(4):
                case 0:
                    pipeline.set(at.core, "no hash")
                case 1:
                    some = chance.sample(FIELDS, chance.randrange(1, len(FIELDS)))
                    pipeline.hset(at.core, mapping={name: chance.choice(STATES) for name in some})
                case 2:
                    pipeline.hset(at.core, mapping={name: chance.choice(STATES) for name in FIELDS})
        # Records of ids that are none.
        for name in ("nonsense", "{fp:1}"):
            lost: dict[Any, Any] = {"ownership_state": "lease_expired_reclaimable", "lifecycle_phase": "active"}
            lost |= {"lane_id": "default", "execution_kind": "echo"}
            pipeline.hset(f"ff:exec:{partition.tag}:{name}:core", mapping=lost)
        pipeline.execute()
    store.sadd(LANES, b"\xff", "")
    store.sadd(WORKERS, b"\xff", "dead")
    store.set(worker_capabilities("dead"), b"\xff,x")


def test_damage_in_every_index_stops_nothing_that_is_sound(
    workers: Workers, client: Client, store: redis.Redis
) -> None:
    damage(store, sound=of_bytes(b"default", 256))
    engine = workers.start_engine(intervals_ms=100)
    worker = workers.start(engine="false", ttl_ms=2_000)
    for message in (b"\xff", b"{}", b'{"execution_id": "{fp:1}:x", "flow_id": "\\ud800"}'):
        store.publish(COMPLETIONS, message)
        store.publish(LEASE_ENDS, message)
    executions = [client.submit("echo", b"x", delay=0.2 * number) for number in range(10)]
    for one in executions:
        assert client.wait(one, LIMIT_S).state == "completed"
    # Every sweep has been through everything several times by now; it ends when it is told to, and not before.
    for process in (engine, worker):
        assert process.process.poll() is None
    engine.process.terminate()
    assert engine.wait() == 0
    warned = [event for event in engine.events() if event["event"] == "sweep cannot move entries"]
    assert warned
    assert len({json.dumps([one["sweep"], one["error"]]) for one in warned}) == len(warned), (
        "each failure is told once"
    )


def test_executions_whose_keys_are_damaged_fail_for_good_and_keep_no_other_waiting(
    workers: Workers, client: Client, store: redis.Redis
) -> None:
    policy = {"retry_policy": {"max_retries": 5, "backoff": {"type": "fixed", "delay_ms": 1}}}
    damaged = {client.submit("echo", b"x", policy=policy): part for part in ("payload", "policy")}
    for execution, part in damaged.items():
        key = ExecutionKeys.of(execution).part(part)
        store.delete(key)
        store.rpush(key, "no such value")
    worker = workers.start()
    executions = [client.submit("echo", b"x") for _ in range(10)]
    for one in executions:
        assert client.wait(one, LIMIT_S).state == "completed"
    for execution, part in damaged.items():
        shown = client.wait(execution, LIMIT_S)
        (attempt,) = shown.attempts
        assert (shown.state, attempt["failure_category"]) == ("failed", "damaged")
        assert f"the store's keys are damaged: {part}: WRONGTYPE" in shown.record["failure_reason"]
        assert part in worker.wait_for("finished", execution=execution)["reason"]
    assert not [event for event in worker.events() if event["event"] == "store away"]
