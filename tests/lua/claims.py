"""What the tests of ffsuper_claim share: executions of every kind there is, and claims of them one by one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from ffsuper.messages import AttemptId, Candidate, ClaimKind, Lease, LeaseId
from ffsuper.store.batch_claims import claim_all
from ffsuper.store.claim_calls import Identity, Wanted, block_route, context_reads, grant, take
from ffsuper.store.keys import ExecutionKeys
from tests.lua import executions
from tests.lua.executions import LANE, POOL, WORKER, claim, create, lane_key
from tests.lua.holders import FAR_MS, complete, delay, fail, promote
from tests.lua.suspensions import put
from tests.lua.world import World, decoded

# Whatever is written is a multiple of this after now, give or take what the test itself takes.
APART_MS = 100_000
ME = Identity(POOL, WORKER, "gpu,linux", lease_ttl_ms=3 * APART_MS)
NEEDS_TPU = json.dumps({"routing_requirements": {"required_capabilities": ["tpu"]}})
NEEDS_GPU = json.dumps({"routing_requirements": {"required_capabilities": ["gpu"]}})
RETRY = json.dumps({"max_retries": 1, "backoff": {"type": "fixed", "delay_ms": 0}})


@dataclass(frozen=True)
class Outcome:
    """What a claim has come to.

    Attributes:
        reply: as the protocol has it; the beginning of the text when an error has stopped it.
        context: as the commands reply that read it; None when there is none, or when one cannot be read.
    """

    reply: Any
    context: list[Any] | None = None


# --- executions of every kind -------------------------------------------------------------------------------------


def plain(world: World) -> ExecutionKeys:
    return create(world, tags='{"team":"a","size":"4"}', policy='{"retry_policy":{"max_retries":3}}')


def retried(world: World) -> ExecutionKeys:
    lease = claim(world)
    fail(world, lease, RETRY)
    promote(world, lease.keys, lease.execution_id, FAR_MS)
    return lease.keys


def replayed(world: World) -> ExecutionKeys:
    lease = claim(world)
    complete(world, lease)
    waiting = {"lifecycle_phase": "runnable", "eligibility_state": "eligible_now", "terminal_outcome": "none"}
    pending = {"attempt_state": "pending_replay_attempt", "pending_replay_reason": "why", "retry_count": "0"}
    put(world, lease.keys.core, **waiting, **pending, pending_replay_requested_by="ada")
    world.redis.zadd(lane_key(lease.keys, "eligible"), {lease.keys.id: 5})
    return lease.keys


def resumed(world: World) -> ExecutionKeys:
    lease = claim(world)
    delay(world, lease)
    promote(world, lease.keys, lease.execution_id, FAR_MS)
    return lease.keys


def resumed_later(world: World) -> ExecutionKeys:
    """Return one whose interrupted attempt is its second."""
    keys = retried(world)
    lease = claim(world, keys)
    delay(world, lease)
    promote(world, keys, keys.id, FAR_MS)
    return keys


def granted(world: World) -> ExecutionKeys:
    keys = create(world)
    executions.grant(world, keys, worker_id="others", grant_ttl_ms=str(7 * APART_MS))
    return keys


def without(index: str) -> Callable[[World], ExecutionKeys]:
    def make(world: World) -> ExecutionKeys:
        keys = create(world)
        world.redis.zrem(lane_key(keys, index), keys.id)
        return keys

    return make


def gone(world: World) -> ExecutionKeys:
    keys = create(world)
    world.redis.delete(keys.core)
    return keys


def with_core(**core: str) -> Callable[[World], ExecutionKeys]:
    """Return what creates an execution and sets fields of its record."""

    def make(world: World) -> ExecutionKeys:
        keys = create(world)
        put(world, keys.core, **core)
        return keys

    return make


def damaged(name: str) -> Callable[[World], ExecutionKeys]:
    """Return what creates an execution and puts something else into the place of one of its keys."""

    def make(world: World) -> ExecutionKeys:
        keys = create(world)
        key = keys.attempt(0, name.removeprefix("attempt:")) if name.startswith("attempt:") else keys.part(name)
        world.redis.delete(key)
        world.redis.rpush(key, "damaged")
        return keys

    return make


def left_over(world: World) -> ExecutionKeys:
    """Return one with the record of an earlier lease."""
    keys = create(world)
    put(world, keys.part("lease:current"), lease_id="earlier", left="over")
    return keys


DAMAGED = ("core", "attempts", "lease:current", "lease:history", "payload", "tags", "policy", "claim_grant")
KINDS: dict[str, Callable[[World], ExecutionKeys]] = {
    "plain": plain,
    "without payload": lambda world: create(world, payload="", policy=""),
    "with deadline": lambda world: create(world, execution_deadline=FAR_MS),
    "retried": retried,
    "replayed": replayed,
    "resumed": resumed,
    "resumed later": resumed_later,
    "capable": lambda world: create(world, policy=NEEDS_GPU),
    "not capable": lambda world: create(world, policy=NEEDS_TPU),
    "granted to another": granted,
    "delayed": lambda world: create(world, delay_until=str(FAR_MS)),
    "running": lambda world: claim(world).keys,
    "not in the index": without("eligible"),
    "gone": gone,
    "left over": left_over,
    **{f"damaged {name}": damaged(name) for name in (*DAMAGED, "attempt:", "attempt:usage")},
    "owned": with_core(ownership_state="leased"),
    "ended": with_core(terminal_outcome="failed"),
    "being run": with_core(attempt_state="running_attempt"),
    "damaged numbers": with_core(total_attempt_count="nan", current_lease_epoch="x", started_at="5"),
    "too much required": with_core(required_capabilities="gpu," * 300),
}


# --- claims -------------------------------------------------------------------------------------------------------


def wish(keys: ExecutionKeys) -> Wanted:
    """Return the wish for a lease of an execution, with new ids."""
    lease_id, attempt_id = LeaseId(str(uuid.uuid4())), AttemptId(str(uuid.uuid4()))
    lease = Lease(keys.id, LANE, lease_id, 0, attempt_id, 0, ME.lease_ttl_ms, 0.0)
    return Wanted(Candidate(keys.id, LANE, ClaimKind.NEW, "thumbnail"), lease)


def claim_together(world: World, wishes: Sequence[Wanted], identity: Identity = ME) -> Any:
    """Call ffsuper_claim; return its whole reply, undecoded."""
    return world.command(*claim_all(wishes, identity).command)


def outcomes_together(world: World, wishes: Sequence[Wanted], identity: Identity = ME) -> list[Outcome]:
    """Claim in one call."""
    reply = claim_together(world, wishes, identity)
    assert reply[:2] == [1, b"OK"]
    return [outcome_of(one) for one in reply[2:]]


def outcome_of(reply: Any) -> Outcome:
    match decoded(reply):
        case [-1, text]:
            return Outcome(text.partition(" ")[0])
        case [1, "OK", *fields] if len(fields) > 6:
            payload, policy, deadline, *tags = fields[6:]
            tags_by_name = dict(zip(tags[::2], tags[1::2], strict=True))
            return Outcome([1, "OK", *fields[:6]], [payload, policy, deadline, tags_by_name])
        case other:
            return Outcome(other)


def outcome_apart(world: World, one: Wanted, identity: Identity = ME) -> Outcome:
    """Claim by the protocol's calls, each made only when the one before it has not refused."""
    candidate, lease = one.candidate, one.lease
    reply = reply_to(world, grant(candidate, identity).command)
    if isinstance(reply, list) and reply[0] == 1:
        reply = reply_to(world, take(candidate, lease, identity).command)
    elif reply[:2] == [0, "capability_mismatch"]:
        reply_to(world, block_route(candidate, world.now_ms()).command)
    if reply == [0, "use_claim_resumed_execution"]:
        index = int(world.value(ExecutionKeys.of(lease.execution_id).core)["current_attempt_index"])
        again = Candidate(lease.execution_id, LANE, ClaimKind.RESUMED, "thumbnail", index)
        reply = reply_to(world, take(again, lease, identity).command)
    if isinstance(reply, str) or reply[0] != 1:
        return Outcome(reply)
    return Outcome(reply, context_apart(world, one))


def context_apart(world: World, one: Wanted) -> list[Any] | None:
    """Read the context by a command each."""
    payload, tags, policy, deadline = (
        reply_to(world, call.command) for call in context_reads(one.candidate, one.lease)
    )
    if "WRONGTYPE" in (payload, tags, policy, deadline):
        return None
    flat = iter([] if tags is None else [part for pair in tags.items() for part in pair] if tags else [])
    return [payload or "", policy or "", deadline_text(deadline), dict(zip(flat, flat, strict=True))]


def deadline_text(score: Any) -> str:
    return "" if score is None else f"{score:.0f}"


def reply_to(world: World, command: tuple[Any, ...]) -> Any:
    """Return the reply to a command, or the first word of the error."""
    try:
        return decoded(world.command(*command))
    except redis.ResponseError as error:
        return str(error).partition(" ")[0]
