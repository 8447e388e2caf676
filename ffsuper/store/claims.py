"""Taking leases: grant, claim and context of each execution, all of them in one round trip.

What comes first at a place is picked by the store, in one call of library ``ffsuper``; candidates are claimed by the
protocol's own calls. A claim whose answer was lost is looked up: the lease id is ours, so the execution's record
tells who took it.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from ffsuper.errors import LibraryMissingError, RefusedError, StoreError, StoreScriptError
from ffsuper.messages import AttemptId, Candidate, Claim, ClaimKind, ExecutionId, Lease, LeaseId, Pick
from ffsuper.store.batch_claims import FUNCTION, claim_first, settle_picks
from ffsuper.store.claim_calls import DAMAGE, ClaimDoubtError, Identity, Wanted, claimed, context_reads, read_holder
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.replies import Call
from ffsuper.store.scans import members
from ffsuper.store.signals import REPLACING, as_text, read_resume_signals
from ffsuper.store.single_claims import SingleClaims
from ffsuper.store.spared import Spared

__all__ = ["ClaimDoubtError", "Claims", "Identity"]

NO_EXECUTION = ExecutionId("")  # of a lease while it is not known which execution the store picks
# Types of attempts that may have signals to begin with.
GO_ON = REPLACING | {"resumed"}


class Claims:
    """What the claimer does in the store.

    Args:
        now_s: the local clock that leases are judged by.
        may_load: a library that is missing is loaded again.
    """

    def __init__(
        self, connection: Connection, identity: Identity, now_s: Callable[[], float], *, may_load: bool = True
    ) -> None:
        self._connection = connection
        self._identity = identity
        self._now_s = now_s
        self._picking = Spared(FUNCTION, now_s, may_load=may_load)
        self._single = SingleClaims(connection, identity)

    @property
    def picks(self) -> bool:
        """False while the store lacks our functions."""
        return self._picking.is_worth_calling

    def note_missing(self) -> None:
        """Note that a function of ours was missing: a look at what waits has been told so."""
        self._picking.note_missing()

    async def claim(
        self, chosen: Sequence[Candidate | Pick], kinds: Collection[str] = ()
    ) -> list[Claim | StoreError]:
        """Try to take the lease of each candidate, and of whatever comes first at the place of each pick.

        Args:
            kinds: of executions that may be picked; none for any kind.

        Returns:
            list in the order of ``chosen``: the claim; RefusedError when somebody or something else has it, or when
            nothing was left to pick; LibraryMissingError when nothing can be picked; ClaimDoubtError when the answer
            was lost; another StoreError when it was certainly not claimed.
        """
        asked_at_s = self._now_s()
        leases = [self._lease_wanted(one, asked_at_s) for one in chosen]
        picks, wanted = dict[Pick, list[Lease]](), list[Wanted]()
        for one, lease in zip(chosen, leases, strict=True):
            if isinstance(one, Pick):
                picks.setdefault(one, []).append(lease)
            else:
                wanted.append(Wanted(one, lease))
        found = await self._claim_all(picks, kinds, wanted)
        return [await self._with_signals(found[lease.lease_id]) for lease in leases]

    def _lease_wanted(self, chosen: Candidate | Pick, asked_at_s: float) -> Lease:
        execution_id, index = NO_EXECUTION, 0
        if isinstance(chosen, Candidate):
            execution_id, index = chosen.execution_id, chosen.attempt_index
        return Lease(
            execution_id,
            chosen.lane,
            LeaseId(str(uuid.uuid4())),
            epoch=0,
            attempt_id=AttemptId(str(uuid.uuid4())),
            attempt_index=index,
            ttl_ms=self._identity.lease_ttl_ms,
            asked_at_s=asked_at_s,
        )

    async def _claim_all(
        self, picks: dict[Pick, list[Lease]], kinds: Collection[str], wanted: Sequence[Wanted]
    ) -> dict[LeaseId, Claim | StoreError]:
        """Make one call for each place, and the protocol's for each candidate; return the results by lease wanted."""
        calls: list[Call[Any]] = [claim_first(pick, kinds, leases, self._identity) for pick, leases in picks.items()]
        single = [self._single.calls(one) for one in wanted]
        answers = iter(await self._connection.try_all([*calls, *itertools.chain.from_iterable(single)]))
        found: dict[LeaseId, Claim | StoreError] = {}
        for pick, leases in picks.items():
            answer = next(answers)
            if isinstance(answer, LibraryMissingError):
                self._picking.note_missing()
            elif not isinstance(answer, StoreError):
                self._picking.note_present()
            found |= await settle_picks(self._connection, pick, leases, answer)
        for one, own in zip(wanted, single, strict=True):
            found[one.lease.lease_id] = await self._single.settle(one, list(itertools.islice(answers, len(own))))
        return found

    async def _with_signals(self, claim: Claim | StoreError) -> Claim | StoreError:
        """Add what ended the suspension, if the attempt comes back from one, or replaces one that had."""
        if not isinstance(claim, Claim) or claim.attempt_type not in GO_ON:
            return claim
        try:
            return replace(claim, signals=await read_resume_signals(self._connection, claim.lease))
        except DAMAGE as error:
            return replace(claim, damage=f"signals: {error}")
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
        if isinstance(candidate, Pick):
            try:
                picked = await self._picked(candidate, lease)
            except StoreError:
                return doubt
            if picked is None:
                return RefusedError("claim", "not_carried_out")
            candidate, lease = picked, replace(lease, execution_id=picked.execution_id)
        calls: list[Call[Any]] = [read_holder(lease), *context_reads(candidate, lease)]
        holder, *context = await self._connection.try_all(calls)
        if isinstance(holder, StoreError) and not isinstance(holder, DAMAGE):
            return doubt
        if holder is None or isinstance(holder, StoreError):  # a lease on a record that is none will not last
            return RefusedError("claim", "not_carried_out")
        attempt = ExecutionKeys.of(candidate.execution_id).attempt(holder.attempt_index)
        (attempt_type,) = await self._connection.try_all([read_attempt_type(attempt)])
        if isinstance(attempt_type, StoreError):
            context.append(attempt_type)
            attempt_type = ""
        held = replace(holder, attempt_type=attempt_type)
        return await self._with_signals(claimed(candidate, lease, held, context))

    async def _picked(self, pick: Pick, lease: Lease) -> Candidate | None:
        """Find what the store has picked for a lease, among all that this worker instance holds on the partition.

        Raises:
            StoreError: the store cannot tell now.
        """
        held = PartitionKeys.of_index(pick.partition).worker_leases(self._identity.instance_id)
        executions = (await self._connection.run(Call(("SMEMBERS", held), members))).ids
        holders = await self._connection.try_all(
            [read_holder(replace(lease, execution_id=execution)) for execution in executions]
        )
        for execution, holder in zip(executions, holders, strict=True):
            if isinstance(holder, StoreError) and not isinstance(holder, StoreScriptError):
                raise holder
            if holder is not None and not isinstance(holder, StoreError):
                return Candidate(execution, pick.lane, ClaimKind.NEW, execution_kind="")
        return None


def read_attempt_type(attempt: str) -> Call[str]:
    """Read as what an attempt that is under way was claimed; one that has been resumed was claimed as such."""

    def parse(reply: Any) -> str:
        attempt_type, resumed_at = map(as_text, reply)
        return "resumed" if resumed_at else attempt_type

    return Call(("HMGET", attempt, "attempt_type", "resumed_at"), parse)
