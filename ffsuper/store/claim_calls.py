"""The calls that take leases one by one: grant, claim, context; and how their replies are read."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, replace
from typing import Any

from ffsuper.errors import OutcomeUnknownError, StoreError, UnreadableReplyError, WrongTypeError
from ffsuper.messages import AttemptId, Candidate, Claim, ClaimKind, Lease, Pick
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call, Status, fcall

LOG = logging.getLogger(__name__)

GRANT_TTL_MS = 5_000  # the protocol's; an unused grant keeps others away for this long
LAST_MS = 253_402_300_799_000  # the end of the year 9999
PARTS = ("payload", "tags", "policy", "deadline", "record", "attempt")  # of a context, in the order of its reads
# What reading again does not help against: the execution can never be run, and its claim says so.
DAMAGE = (UnreadableReplyError, WrongTypeError)
NO_CAPABLE_WORKER = "no connected worker satisfies required_capabilities"


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom leases are taken.

    Attributes:
        capabilities: comma-separated, sorted.
        lease_ttl_ms: length of every lease.
    """

    worker_id: str
    instance_id: str
    capabilities: str
    lease_ttl_ms: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim function answered."""

    epoch: int
    attempt_id: AttemptId
    attempt_index: int
    attempt_type: str


class ClaimDoubtError(OutcomeUnknownError):
    """The store's: a claim was sent, and whether it was carried out is not known. ``Claims.look_up`` tells.

    Attributes:
        candidate: what was to be claimed.
        lease: with the ids that were sent; its execution is empty while it is not known which the store has picked.
    """

    def __init__(self, candidate: Candidate | Pick, lease: Lease, cause: StoreError) -> None:
        what = lease.execution_id or f"an execution of lane {lease.lane}"
        super().__init__(f"it is not known whether {what} was claimed: {cause}")
        self.candidate = candidate
        self.lease = lease


@dataclass(frozen=True, slots=True)
class Wanted:
    """A candidate, and the lease that is asked for it: its ids are new ones, its epoch is still to come."""

    candidate: Candidate
    lease: Lease


def claimed(candidate: Candidate, lease: Lease, taken: Taken, context: list[Any]) -> Claim | StoreError:
    """Put lease and context together; while the context cannot be had it is a doubt, to be looked up again."""
    granted = replace(lease, epoch=taken.epoch, attempt_id=taken.attempt_id, attempt_index=taken.attempt_index)
    payload, tags, retry_policy, deadline_ms, *read = context
    if isinstance(deadline_ms, DAMAGE):  # the partition's, and no reason to fail all that is there
        LOG.warning("damaged key skipped", extra={"key": deadlines_of(lease), "error": deadline_ms})
        deadline_ms = None
    parts = zip(PARTS, (payload, tags, retry_policy, deadline_ms, *read), strict=False)
    failures = {name: part for name, part in parts if isinstance(part, StoreError)}
    for failure in failures.values():
        if not isinstance(failure, DAMAGE):
            return ClaimDoubtError(candidate, lease, failure)
    if failures:
        kind, told = candidate.execution_kind, "; ".join(f"{name}: {error}" for name, error in failures.items())
        return Claim(granted, kind, taken.attempt_type, payload=b"", tags={}, retry_policy=b"", damage=told)
    kind = read[0] if read else candidate.execution_kind
    return Claim(granted, kind, taken.attempt_type, payload, tags, retry_policy, deadline_ms)


def grant(candidate: Candidate, identity: Identity) -> Call[None]:
    """Ask for leave to claim. Refuses with ``capability_mismatch`` among others."""
    keys = ExecutionKeys.of(candidate.execution_id)
    reclaim = candidate.claim is ClaimKind.RECLAIM
    index = keys.partition.index("lease_expiry") if reclaim else keys.partition.lane(candidate.lane, "eligible")
    return fcall(
        "ff_issue_reclaim_grant" if reclaim else "ff_issue_claim_grant",
        (keys.core, keys.part("claim_grant"), index),
        (
            *(candidate.execution_id, identity.worker_id, identity.instance_id, candidate.lane),
            *("", GRANT_TTL_MS, "", "", identity.capabilities),
        ),
        lambda _: None,
    )


def take(candidate: Candidate, lease: Lease, identity: Identity) -> Call[Taken]:
    """Take the lease, with the function that fits the candidate."""
    match candidate.claim:
        case ClaimKind.NEW:
            return claim_new(candidate, lease, identity)
        case ClaimKind.RESUMED:
            return claim_resumed(candidate, lease, identity)
        case ClaimKind.RECLAIM:
            return reclaim(candidate, lease, identity)


def claim_new(candidate: Candidate, lease: Lease, identity: Identity) -> Call[Taken]:
    """Begin a new attempt."""
    keys = ExecutionKeys.of(candidate.execution_id)
    partition, index = keys.partition, lease.attempt_index
    return fcall(
        "ff_claim_execution",
        (
            *(keys.core, keys.part("claim_grant"), partition.lane(candidate.lane, "eligible")),
            *(partition.index("lease_expiry"), partition.worker_leases(identity.instance_id)),
            *(keys.attempt(index), keys.attempt(index, "usage"), keys.attempt(index, "policy")),
            *(keys.part("attempts"), keys.part("lease:current"), keys.part("lease:history")),
            *(partition.lane(candidate.lane, "active"), partition.index("attempt_timeout")),
            partition.index("execution_deadline"),
        ),
        (
            *(candidate.execution_id, identity.worker_id, identity.instance_id, candidate.lane),
            *("", lease.lease_id, lease.ttl_ms, lease.ttl_ms * 2 // 3, lease.attempt_id, "{}", "", ""),
        ),
        read_taken,
    )


def claim_resumed(candidate: Candidate, lease: Lease, identity: Identity) -> Call[Taken]:
    """Go on with the interrupted attempt, whose index must be the current one."""
    keys = ExecutionKeys.of(candidate.execution_id)
    partition = keys.partition
    return fcall(
        "ff_claim_resumed_execution",
        (
            *(keys.core, keys.part("claim_grant"), partition.lane(candidate.lane, "eligible")),
            *(partition.index("lease_expiry"), partition.worker_leases(identity.instance_id)),
            *(keys.attempt(candidate.attempt_index), keys.part("lease:current"), keys.part("lease:history")),
            *(partition.lane(candidate.lane, "active"), partition.index("attempt_timeout")),
            partition.index("execution_deadline"),
        ),
        (
            *(candidate.execution_id, identity.worker_id, identity.instance_id, candidate.lane),
            *("", lease.lease_id, lease.ttl_ms, ""),
        ),
        read_taken,
    )


def reclaim(candidate: Candidate, lease: Lease, identity: Identity) -> Call[Taken]:
    """End the attempt whose lease is over, and begin another."""
    keys = ExecutionKeys.of(candidate.execution_id)
    partition, old = keys.partition, candidate.attempt_index
    return fcall(
        "ff_reclaim_execution",
        (
            *(keys.core, keys.part("claim_grant"), keys.attempt(old), keys.stream_meta(old)),
            *(keys.attempt(old + 1), keys.attempt(old + 1, "usage"), keys.part("attempts")),
            *(keys.part("lease:current"), keys.part("lease:history"), partition.index("lease_expiry")),
            *(partition.worker_leases(identity.instance_id), partition.lane(candidate.lane, "active")),
            *(partition.index("attempt_timeout"), partition.index("execution_deadline")),
        ),
        (
            *(candidate.execution_id, identity.worker_id, identity.instance_id, candidate.lane),
            *(lease.lease_id, lease.ttl_ms, lease.attempt_id, "{}"),
        ),
        read_taken,
    )


def read_taken(status: Status) -> Taken:
    """Read a claim's reply: lease id, epoch, expiry, attempt id, attempt index, attempt type."""
    return Taken(status.number(1), AttemptId(status.text(3)), status.number(4), status.text(5))


def read_holder(lease: Lease) -> Call[Taken | None]:
    """Read who holds an execution; None when it is not the given lease."""
    fields = ("current_lease_id", "current_lease_epoch", "current_attempt_id", "current_attempt_index")

    def parse(reply: Any) -> Taken | None:
        lease_id, epoch, attempt_id, index = ((part or b"").decode() for part in reply)
        if lease_id != lease.lease_id:
            return None
        return Taken(int(epoch), AttemptId(attempt_id), int(index), attempt_type="")

    return Call(("HMGET", ExecutionKeys.of(lease.execution_id).core, *fields), parse)


def context_reads(candidate: Candidate, lease: Lease) -> list[Call[Any]]:
    """Read payload, tags, retry policy and deadline, and the kind where the candidate does not tell it."""
    keys = ExecutionKeys.of(lease.execution_id)
    reads: list[Call[Any]] = [
        Call(("GET", keys.part("payload")), lambda reply: reply or b""),
        Call(("HGETALL", keys.part("tags")), read_tags),
        Call(("GET", keys.part("policy")), read_retry_policy),
        Call(("ZSCORE", deadlines_of(lease), lease.execution_id), read_deadline),
    ]
    if not candidate.execution_kind:
        reads.append(Call(("HGET", keys.core, "execution_kind"), read_kind))
    return reads


def deadlines_of(lease: Lease) -> str:
    """Return the key of the index that has an execution's deadline."""
    return ExecutionKeys.of(lease.execution_id).partition.index("execution_deadline")


def read_kind(reply: bytes | None) -> str:
    """Read an execution's kind."""
    return (reply or b"").decode(errors="surrogateescape")


def read_deadline(reply: Any) -> int | None:
    """Read when an execution expires; None when it does not, or far beyond all calendars."""
    at_ms = math.inf if reply is None else float(reply)
    return int(max(at_ms, 0.0)) if at_ms < LAST_MS else None


def read_tags(reply: Any) -> dict[str, str]:
    """Read the tags; bytes that are no UTF-8 are kept as surrogates."""
    texts = [part.decode(errors="surrogateescape") for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def read_retry_policy(reply: Any) -> bytes:
    """Return the policy's retry member as JSON; empty when there is none, or none that can be read."""
    try:
        policy = json.loads(reply or b"{}")
        if not isinstance(policy, dict) or policy.get("retry_policy") is None:
            return b""
        return json.dumps(policy["retry_policy"]).encode()
    except (ValueError, RecursionError):  # any submitter's, who may nest it as deep as he likes
        return b""


def block_route(candidate: Candidate, now_ms: int) -> Call[None]:
    """Move an execution from the eligible index to those that wait for a capable worker."""
    keys = ExecutionKeys.of(candidate.execution_id)
    lane = keys.partition.lane
    return fcall(
        "ff_block_execution_for_admission",
        (keys.core, lane(candidate.lane, "eligible"), lane(candidate.lane, "blocked:route")),
        (candidate.execution_id, "waiting_for_capable_worker", NO_CAPABLE_WORKER, now_ms),
        lambda _: None,
    )
