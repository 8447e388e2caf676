"""Claims as the protocol has them: grant, claim and context of each candidate by calls of its own."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from ffsuper.errors import OutcomeUnknownError, RefusedError, StoreError, UnreadableReplyError
from ffsuper.messages import Claim, ClaimKind
from ffsuper.store.claim_calls import (
    ClaimDoubtError,
    Identity,
    Wanted,
    block_route,
    claimed,
    context_reads,
    grant,
    take,
)
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call

LOG = logging.getLogger(__name__)


class SingleClaims:
    """Needs no function but the protocol's."""

    def __init__(self, connection: Connection, identity: Identity) -> None:
        self._connection = connection
        self._identity = identity

    def calls(self, wanted: Wanted) -> list[Call[Any]]:
        """Return the calls whose answers ``settle`` takes."""
        candidate, lease = wanted.candidate, wanted.lease
        return [
            *([] if candidate.is_granted else [grant(candidate, self._identity)]),
            take(candidate, lease, self._identity),
            *context_reads(candidate, lease),
        ]

    async def settle(self, wanted: Wanted, answers: list[Any]) -> Claim | StoreError:
        """Turn the answers for one candidate into its claim, or the reason why there is none."""
        candidate, lease = wanted.candidate, wanted.lease
        granted, taken, *context = [None, *answers] if candidate.is_granted else answers
        if isinstance(granted, RefusedError) and granted.code == "capability_mismatch":
            # If this fails, the next scan finds it again.
            await self._connection.try_all([block_route(candidate, int(time.time() * 1000))])
            return granted
        if isinstance(taken, RefusedError) and taken.code == "use_claim_resumed_execution":
            return await self._resume(wanted)
        if isinstance(taken, UnreadableReplyError):
            LOG.error("answer to a claim cannot be read", extra={"execution": lease.execution_id, "error": taken})
        if isinstance(taken, OutcomeUnknownError | UnreadableReplyError):
            return ClaimDoubtError(candidate, lease, taken)
        if isinstance(taken, StoreError):
            # Without a grant the claim is refused for want of one; the grant's refusal says why.
            return granted if isinstance(granted, RefusedError) else taken
        return claimed(candidate, lease, taken, context)

    async def _resume(self, wanted: Wanted) -> Claim | StoreError:
        """Continue with the same grant: the execution turned out to be one whose attempt goes on."""
        core = ExecutionKeys.of(wanted.candidate.execution_id).core
        read_index = Call(("HGET", core, "current_attempt_index"), lambda reply: int(reply or 0))
        (index,) = await self._connection.try_all([read_index])
        if isinstance(index, StoreError):
            return index
        resumed = replace(wanted.candidate, claim=ClaimKind.RESUMED, attempt_index=index, is_granted=True)
        again = replace(wanted, candidate=resumed)
        return await self.settle(again, await self._connection.try_all(self.calls(again)))
