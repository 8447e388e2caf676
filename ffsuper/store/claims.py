"""Taking leases: grant, claim and context of each candidate, all candidates in one round trip.

Claims of one lane and partition are one call where library ``ffsuper`` can make it. A claim whose answer was lost is
looked up: the lease id is ours, so the execution's record tells who took it.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ffsuper.errors import LibraryMissingError, RefusedError, StoreError
from ffsuper.messages import AttemptId, Candidate, Claim, ClaimKind, Lease, LeaseId
from ffsuper.store.batch_claims import claim_all, groups, settle_group
from ffsuper.store.claim_calls import ClaimDoubtError, Identity, Wanted, claimed, context_reads, read_holder
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call
from ffsuper.store.signals import read_resume_signals
from ffsuper.store.single_claims import SingleClaims

__all__ = ["ClaimDoubtError", "Claims", "Identity"]


class Claims:
    """What the claimer does in the store.

    Args:
        now_s: the local clock that leases are judged by.
        may_load: a library that is missing is loaded, so that one without our function will not stay like that.
    """

    def __init__(
        self, connection: Connection, identity: Identity, now_s: Callable[[], float], *, may_load: bool = True
    ) -> None:
        self._connection = connection
        self._identity = identity
        self._now_s = now_s
        self._may_load = may_load
        self._has_function = True
        self._single = SingleClaims(connection, identity)

    async def claim(self, candidates: Sequence[Candidate]) -> list[Claim | StoreError]:
        """Try to take the lease of each candidate.

        Returns:
            list in the order of ``candidates``: the claim; RefusedError when somebody or something else has it;
            ClaimDoubtError when the answer was lost; another StoreError when it was certainly not claimed.
        """
        asked_at_s = self._now_s()
        wanted = [Wanted(candidate, self._lease_wanted(candidate, asked_at_s)) for candidate in candidates]
        together, apart = groups(wanted) if self._has_function else ([], wanted)
        found = await self._claim_all(together, apart)
        return [await self._with_signals(found[one.lease.lease_id]) for one in wanted]

    def _lease_wanted(self, candidate: Candidate, asked_at_s: float) -> Lease:
        return Lease(
            candidate.execution_id,
            candidate.lane,
            LeaseId(str(uuid.uuid4())),
            epoch=0,
            attempt_id=AttemptId(str(uuid.uuid4())),
            attempt_index=candidate.attempt_index,
            ttl_ms=self._identity.lease_ttl_ms,
            asked_at_s=asked_at_s,
        )

    async def _claim_all(
        self, together: list[list[Wanted]], apart: list[Wanted]
    ) -> dict[LeaseId, Claim | StoreError]:
        """Make one call for each group, and the protocol's for the others; return the results by the lease wanted."""
        calls: list[Call[Any]] = [claim_all(group, self._identity) for group in together]
        single = [self._single.calls(one) for one in apart]
        answers = iter(await self._connection.try_all([*calls, *itertools.chain.from_iterable(single)]))
        found: dict[LeaseId, Claim | StoreError] = {}
        missed: list[Wanted] = []
        for group in together:
            answer = next(answers)
            if isinstance(answer, LibraryMissingError):
                missed += group
                continue
            results = await settle_group(self._connection, group, answer)
            found |= {one.lease.lease_id: result for one, result in zip(group, results, strict=True)}
        for one, own in zip(apart, single, strict=True):
            found[one.lease.lease_id] = await self._single.settle(one, list(itertools.islice(answers, len(own))))
        if missed:
            self._has_function = self._may_load
            found |= await self._claim_all([], missed)
        return found

    async def _with_signals(self, claim: Claim | StoreError) -> Claim | StoreError:
        """Add what ended the suspension, if the attempt comes back from one."""
        if not isinstance(claim, Claim) or claim.attempt_type != "resumed":
            return claim
        try:
            return replace(claim, signals=await read_resume_signals(self._connection, claim.lease))
        except StoreError as error:
            lease, kind = claim.lease, claim.execution_kind
            resumed = Candidate(lease.execution_id, lease.lane, ClaimKind.RESUMED, kind, lease.attempt_index)
            return ClaimDoubtError(resumed, lease, error)

    async def look_up(self, doubt: ClaimDoubtError) -> Claim | StoreError:
        """Find out whether a claim was carried out, and read its context if so.

        Returns:
            the claim; RefusedError when it was not carried out; the doubt again when the store cannot tell now.
        """
        candidate, lease = doubt.candidate, doubt.lease
        calls: list[Call[Any]] = [read_holder(lease), *context_reads(candidate, lease)]
        holder, *context = await self._connection.try_all(calls)
        if isinstance(holder, StoreError):
            return doubt
        if holder is None:
            return RefusedError("claim", "not_carried_out")
        attempt = ExecutionKeys.of(candidate.execution_id).attempt(holder.attempt_index)
        read_type = Call(("HGET", attempt, "attempt_type"), lambda reply: (reply or b"").decode())
        (attempt_type,) = await self._connection.try_all([read_type])
        if isinstance(attempt_type, StoreError):
            return doubt
        if candidate.claim is ClaimKind.RESUMED or holder.attempt_id != lease.attempt_id:
            attempt_type = "resumed"  # an attempt that we have begun bears the id that we gave it
        held = replace(holder, attempt_type=attempt_type)
        return await self._with_signals(claimed(candidate, lease, held, context))
