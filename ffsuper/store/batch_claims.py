"""Claims of whatever comes first at a place, in one call of library ``ffsuper``."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ffsuper.errors import OutcomeUnknownError, RefusedError, StoreError, StoreScriptError
from ffsuper.messages import Candidate, Claim, ClaimKind, ExecutionId, Lease, LeaseId, Pick
from ffsuper.store.claim_calls import (
    GRANT_TTL_MS,
    ClaimDoubtError,
    Identity,
    Taken,
    claimed,
    context_reads,
    read_deadline,
    read_kind,
    read_retry_policy,
    read_tags,
    read_taken,
)
from ffsuper.store.connection import Connection
from ffsuper.store.keys import PartitionKeys, is_execution_id
from ffsuper.store.replies import UNREADABLE, Call, Part, Status, as_bytes, status_of

LOG = logging.getLogger(__name__)

FUNCTION = "ffsuper_claim_first"
REFUSED, STOPPED = 0, -1  # begin the answer for an execution that was not claimed
MOST_TOLD = 100  # characters of what should be an id
LEASE_FIELDS = 6  # of an answer for one that was claimed; kind and context follow


@dataclass(frozen=True, slots=True)
class Picked:
    """An execution that the function has claimed.

    Attributes:
        lease_id: one of those that were offered.
        context: payload, tags, retry policy, deadline; empty when one of them could not be read.
    """

    execution_id: ExecutionId
    execution_kind: str
    lease_id: LeaseId
    taken: Taken
    context: list[Any]


@dataclass(frozen=True, slots=True)
class Passed:
    """An execution that it has passed over, though it is one of ours.

    Attributes:
        why: a refusal, or the error that has stopped the claim.
    """

    execution_id: ExecutionId
    why: StoreError


@dataclass(frozen=True, slots=True)
class Unread:
    """An answer that cannot be read: it may be of a claim, under any of the leases that no other answer names.

    Attributes:
        told: which execution it is about, as far as that can be read.
    """

    told: str
    why: StoreScriptError


Answer = Picked | Passed | Unread


def claim_first(
    pick: Pick, kinds: Collection[str], leases: Sequence[Lease], identity: Identity
) -> Call[list[Answer]]:
    """Claim as many executions as there are leases, or what is left.

    Args:
        kinds: of executions that are claimed; none for any kind.
        leases: with the ids that are used for them, in this order.
    """
    partition = PartitionKeys.of_index(pick.partition)
    keys = (
        *(partition.lane(pick.lane, "eligible"), partition.lane(pick.lane, "blocked:route")),
        *(partition.index("lease_expiry"), partition.worker_leases(identity.instance_id)),
        *(partition.lane(pick.lane, "active"), partition.index("execution_deadline"), partition.noop),
    )
    args: list[Part] = [identity.capabilities, identity.worker_id, identity.instance_id, pick.lane]
    args += [identity.lease_ttl_ms, GRANT_TTL_MS, pick.offset, len(kinds), *kinds]
    for lease in leases:
        args += [lease.lease_id, lease.attempt_id]
    return Call(("FCALL", FUNCTION, len(keys), *keys, *args), read_answers)


def read_answers(reply: Any) -> list[Answer]:
    """Read the reply.

    Raises:
        StoreError: the whole call was refused.
    """
    if not isinstance(reply, list) or reply[:1] != [1]:
        status_of(FUNCTION, reply)
    return [read_any_answer(one) for one in reply[2:]]


def read_any_answer(reply: Any) -> Answer:
    """Read what has become of one execution; what spoils one answer spoils no other."""
    try:
        return read_answer(reply)
    except UNREADABLE as error:
        told = reply[1] if isinstance(reply, list) and len(reply) > 1 else b""
        return Unread(
            as_bytes(told).decode(errors="replace")[:MOST_TOLD],
            StoreScriptError(f"{FUNCTION}: the answer cannot be read: {error!s:.200}"),
        )


def read_answer(reply: Any) -> Answer:
    """Read what has become of one execution."""
    result, execution_id = reply[0], ExecutionId(reply[1].decode(errors="replace"))
    if result == STOPPED:
        return Passed(execution_id, StoreScriptError(f"{execution_id}: {reply[2].decode(errors='replace')}"))
    if result == REFUSED:
        try:
            status_of(FUNCTION, [REFUSED, *reply[2:]])
        except StoreError as refusal:
            return Passed(execution_id, refusal)
    status = Status("OK", tuple(reply[2:]))
    kind, *context = status.fields[LEASE_FIELDS:]
    return Picked(execution_id, read_kind(kind), LeaseId(status.text(0)), read_taken(status), read_context(context))


def read_context(fields: Sequence[bytes]) -> list[Any]:
    """Read what came with a claim, as ``claimed`` takes it."""
    if not fields:
        return []
    payload, policy, deadline, *tags = fields
    return [payload, read_tags(tags), read_retry_policy(policy), read_deadline(deadline or None)]


async def settle_picks(
    connection: Connection, pick: Pick, leases: Sequence[Lease], answers: list[Answer] | StoreError
) -> dict[LeaseId, Claim | StoreError]:
    """Return what has become of each of the leases that were offered for a place.

    What has stopped the claim of an execution goes in the place of a claim that there was none for. While an answer
    cannot be read, each lease that is left may be that of a claim, and is looked up as after a lost answer.
    """
    if isinstance(answers, StoreError):
        is_unknown = isinstance(answers, OutcomeUnknownError)
        return {one.lease_id: ClaimDoubtError(pick, one, answers) if is_unknown else answers for one in leases}
    left = {lease.lease_id: lease for lease in leases}
    found = dict[LeaseId, Claim | StoreError]()
    stopped = deque[StoreError]()
    unread: StoreScriptError | None = None
    for answer in answers:
        match answer:
            case Picked(execution_id) if answer.lease_id not in left or not is_execution_id(execution_id):
                stopped.append(StoreScriptError(f"{FUNCTION}: it has claimed {execution_id} for nobody"))
            case Picked():
                found[answer.lease_id] = await settle(connection, pick, left.pop(answer.lease_id), answer)
            case Passed(execution_id, RefusedError() as refusal):
                LOG.debug("not claimed", extra={"execution": execution_id, "code": refusal.code})
            case Passed(_, error):
                stopped.append(error)
            case Unread(told, unread):
                LOG.error("answer to a claim cannot be read", extra={"execution": told, "error": unread})
    for lease_id, lease in left.items():
        if unread is not None:
            found[lease_id] = ClaimDoubtError(pick, lease, unread)
            continue
        found[lease_id] = stopped.popleft() if stopped else RefusedError(FUNCTION, "nothing_left")
    for error in stopped:
        LOG.error("claim failed", extra={"lane": pick.lane, "partition": pick.partition, "error": error})
    return found


async def settle(connection: Connection, pick: Pick, lease: Lease, picked: Picked) -> Claim | StoreError:
    """Return the claim; a context that the function could not read is read again, so that it is known why."""
    candidate = Candidate(picked.execution_id, pick.lane, ClaimKind.NEW, picked.execution_kind)
    known = replace(lease, execution_id=picked.execution_id)
    context = picked.context or await connection.try_all(context_reads(candidate, known))
    return claimed(candidate, known, picked.taken, context)
