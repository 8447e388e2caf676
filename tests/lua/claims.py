"""What the tests of ffsuper_claim_first share: executions of every kind there is, and claims of them one by one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from ffsuper.messages import AttemptId, Candidate, ClaimKind, ExecutionId, Lease, LeaseId, Pick
from ffsuper.store.batch_claims import claim_first
from ffsuper.store.claim_calls import Identity, block_route, context_reads, grant, take
from ffsuper.store.keys import ExecutionKeys
from tests.lua import executions
from tests.lua.executions import CREATE, LANE, POOL, WORKER, claim, create, lane_key, new_keys
from tests.lua.holders import FAR_MS, complete, delay, fail, promote
from tests.lua.suspensions import put
from tests.lua.world import World, decoded

# Whatever is written is a multiple of this after now, give or take what the test itself takes.
APART_MS = 100_000
ME = Identity(POOL, WORKER, "gpu,linux", lease_ttl_ms=3 * APART_MS)
PLACE = Pick(LANE, 7)
KIND = str(CREATE["execution_kind"])
NEEDS_TPU = json.dumps({"routing_requirements": {"required_capabilities": ["tpu"]}})
NEEDS_GPU = json.dumps({"routing_requirements": {"required_capabilities": ["gpu"]}})
RETRY = json.dumps({"max_retries": 1, "backoff": {"type": "fixed", "delay_ms": 0}})


@dataclass(frozen=True)
class Outcome:
    """What a claim has come to.

    Attributes:
        execution_id: of what was tried.
        reply: as the protocol has it; the beginning of the text when an error has stopped it.
        context: as the commands reply that read it; None when there is none, or when one cannot be read.
    """

    execution_id: str
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


def offers(count: int) -> list[Lease]:
    """Return leases to be taken, with new ids."""
    return [offer() for _ in range(count)]


def offer() -> Lease:
    lease_id, attempt_id = LeaseId(str(uuid.uuid4())), AttemptId(str(uuid.uuid4()))
    return Lease(ExecutionId(""), LANE, lease_id, 0, attempt_id, 0, ME.lease_ttl_ms, 0.0)


def ranges_read(world: World, act: Callable[[], object]) -> list[list[str]]:
    """Return from where to where indexes are read meanwhile."""
    with world.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        act()
        world.redis.echo("end")
        told: list[list[str]] = [[]]
        while told[-1] != ["ECHO", "end"]:
            told.append(monitor.next_command()["command"].split())
    return [command[2:] for command in told if command[:1] == ["ZRANGE"]]


def claim_together(
    world: World,
    leases: Sequence[Lease],
    *,
    offset: int = 0,
    kinds: Sequence[str] = (),
    identity: Identity = ME,
) -> Any:
    """Call ffsuper_claim_first; return its whole reply, undecoded."""
    return world.command(*claim_first(replace(PLACE, offset=offset), kinds, leases, identity).command)


def outcomes_together(world: World, leases: Sequence[Lease], **changes: Any) -> list[Outcome]:
    """Claim in one call."""
    reply = claim_together(world, leases, **changes)
    assert reply[:2] == [1, b"OK"]
    return [outcome_of(one) for one in reply[2:]]


def outcome_of(reply: Any) -> Outcome:
    match decoded(reply):
        case [-1, execution_id, text]:
            return Outcome(execution_id, text.partition(" ")[0])
        case [1, execution_id, *fields]:
            lease, kind, context = fields[:6], fields[6], fields[7:]
            assert kind == KIND
            return Outcome(execution_id, [1, "OK", *lease], with_named_tags(context) if context else None)
        case [0, execution_id, *refusal]:
            return Outcome(execution_id, [0, *refusal])
        case other:
            raise AssertionError(other)


def with_named_tags(context: list[str]) -> list[Any]:
    payload, policy, deadline, *tags = context
    return [payload, policy, deadline, dict(zip(tags[::2], tags[1::2], strict=True))]


def outcomes_apart(world: World, leases: Sequence[Lease], offset: int = 0) -> list[Outcome]:
    """Claim what comes first by the protocol's calls, one execution after the other, until all leases are taken.

    An error leaves a lease's ids in a record, unless it comes from reading that.
    """
    members: Any = world.redis.zrange(lane_key(new_keys(), "eligible"), offset, -1)
    left, found = list(leases), []
    for member in members:
        if not left:
            break
        keys = ExecutionKeys.of(ExecutionId(member.decode()))
        is_readable = world.redis.type(keys.core) in (b"hash", b"none")
        outcome = outcome_apart(world, keys, left[0])
        found.append(outcome)
        if is_readable and (isinstance(outcome.reply, str) or outcome.reply[0] == 1):
            left.pop(0)
    return found


def outcome_apart(world: World, keys: ExecutionKeys, offered: Lease, identity: Identity = ME) -> Outcome:
    """Claim by the protocol's calls, each made only when the one before it has not refused."""
    candidate, lease = Candidate(keys.id, LANE, ClaimKind.NEW, KIND), replace(offered, execution_id=keys.id)
    reply = reply_to(world, grant(candidate, identity).command)
    if isinstance(reply, list) and reply[0] == 1:
        reply = reply_to(world, take(candidate, lease, identity).command)
    elif reply[:2] == [0, "capability_mismatch"]:
        reply_to(world, block_route(candidate, world.now_ms()).command)
    if reply == [0, "use_claim_resumed_execution"]:
        index = int(world.value(keys.core)["current_attempt_index"])
        again = replace(candidate, claim=ClaimKind.RESUMED, attempt_index=index)
        reply = reply_to(world, take(again, lease, identity).command)
    if isinstance(reply, str) or reply[0] != 1:
        return Outcome(keys.id, reply)
    return Outcome(keys.id, reply, context_apart(world, candidate, lease))


def context_apart(world: World, candidate: Candidate, lease: Lease) -> list[Any] | None:
    """Read the context by a command each."""
    payload, tags, policy, deadline = (reply_to(world, call.command) for call in context_reads(candidate, lease))
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
