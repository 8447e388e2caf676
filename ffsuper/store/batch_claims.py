"""Claims of one lane and partition in one call of library ``ffsuper``, answered as the protocol answers each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ffsuper.errors import OutcomeUnknownError, StoreError, StoreScriptError
from ffsuper.messages import Claim, ClaimKind
from ffsuper.store.claim_calls import (
    GRANT_TTL_MS,
    ClaimDoubtError,
    Identity,
    Taken,
    Wanted,
    claimed,
    context_reads,
    read_deadline,
    read_retry_policy,
    read_tags,
    read_taken,
)
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call, Part, status_of

FUNCTION = "ffsuper_claim"
STOPPED = -1  # begins the answer for a claim that an error has stopped
LEASE_FIELDS = 6  # of an answer; the context follows, unless it could not be read


@dataclass(frozen=True, slots=True)
class Answer:
    """What the function says of one claim.

    Attributes:
        context: payload, tags, retry policy, deadline; empty when one of them could not be read.
    """

    taken: Taken
    context: list[Any]


def groups(wanted: Sequence[Wanted]) -> tuple[list[list[Wanted]], list[Wanted]]:
    """Sort claims into those that one call each can make, and those that have to be made one by one.

    The function issues the grant by itself, takes nothing over, and does not tell the kind.
    """
    together: dict[tuple[str, str], list[Wanted]] = {}
    apart = []
    for one in wanted:
        candidate = one.candidate
        if candidate.is_granted or candidate.claim is ClaimKind.RECLAIM or not candidate.execution_kind:
            apart.append(one)
        else:
            tag = ExecutionKeys.of(candidate.execution_id).tag
            together.setdefault((tag, candidate.lane), []).append(one)
    return list(together.values()), apart


def claim_all(group: Sequence[Wanted], identity: Identity) -> Call[list[Answer | StoreError]]:
    """Claim executions of one lane and partition; the answers are in their order."""
    candidate = group[0].candidate
    partition, lane = ExecutionKeys.of(candidate.execution_id).partition, candidate.lane
    keys = (
        *(partition.lane(lane, "eligible"), partition.lane(lane, "blocked:route"), partition.index("lease_expiry")),
        *(partition.worker_leases(identity.instance_id), partition.lane(lane, "active")),
        *(partition.index("execution_deadline"), partition.noop),
    )
    args: list[Part] = [
        *(identity.capabilities, identity.worker_id, identity.instance_id, lane),
        *(identity.lease_ttl_ms, GRANT_TTL_MS),
    ]
    for one in group:
        args += [one.lease.execution_id, one.lease.lease_id, one.lease.attempt_id]
    return Call(("FCALL", FUNCTION, len(keys), *keys, *args), read_answers)


def read_answers(reply: Any) -> list[Answer | StoreError]:
    """Read the reply.

    Raises:
        StoreError: the whole call was refused.
    """
    if not isinstance(reply, list) or reply[:1] != [1]:
        status_of(FUNCTION, reply)
    return [read_answer(one) for one in reply[2:]]


def read_answer(reply: Any) -> Answer | StoreError:
    """Read what has become of one claim."""
    if reply[:1] == [STOPPED]:
        return StoreScriptError(reply[1].decode(errors="replace"))
    try:
        status = status_of(FUNCTION, reply)
    except StoreError as refusal:
        return refusal
    context = status.fields[LEASE_FIELDS:]
    if not context:
        return Answer(read_taken(status), [])
    payload, policy, deadline, *tags = context
    read = [payload, read_tags(tags), read_retry_policy(policy), read_deadline(deadline or None)]
    return Answer(read_taken(status), read)


async def settle_group(
    connection: Connection, group: Sequence[Wanted], answers: list[Answer | StoreError] | StoreError
) -> list[Claim | StoreError]:
    """Turn the answers for a group into claims, or the reasons why there are none."""
    if isinstance(answers, StoreError):
        return [failed(one, answers) for one in group]
    return [await settle(connection, one, answer) for one, answer in zip(group, answers, strict=True)]


def failed(wanted: Wanted, error: StoreError) -> StoreError:
    """Return what it means for a claim that the whole call has failed."""
    is_unknown = isinstance(error, OutcomeUnknownError)
    return ClaimDoubtError(wanted.candidate, wanted.lease, error) if is_unknown else error


async def settle(connection: Connection, wanted: Wanted, answer: Answer | StoreError) -> Claim | StoreError:
    """Do so for one of them; a context that the function could not read is read again, so that it is known why."""
    if isinstance(answer, StoreError):
        return answer
    candidate, lease = wanted.candidate, wanted.lease
    context = answer.context or await connection.try_all(context_reads(candidate, lease))
    return claimed(candidate, lease, answer.taken, context)
