"""Renewal of held leases: those of a partition in one call, where library ``ffsuper`` can make it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import trio

from ffsuper.errors import LibraryMissingError, StoreError, StoreScriptError
from ffsuper.messages import Lease
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import UNREADABLE, Call, ElsewhereError, Part, fcall, status_of
from ffsuper.store.spared import Spared

FUNCTION = "ffsuper_renew"
HISTORY_GRACE_MS = 5_000  # the protocol's: how long lease:current outlives the lease
# A millisecond on the server, which does nothing else meanwhile.
LEASES_PER_CALL = 100
RENEWED = 1  # the answer for a lease that was renewed
STOPPED = -1  # begins the answer for one that an error has stopped

Answers = list[StoreError | None]


class Leases:
    """What the lease renewer does in the store, on a connection that nothing else can hold up.

    Args:
        may_load: a library that is missing is loaded, so that one without our function will not stay like that.
    """

    def __init__(self, connection: Connection, *, may_load: bool = True) -> None:
        self._connection = connection
        self._renewing = Spared(FUNCTION, trio.current_time, may_load=may_load)

    async def renew(self, leases: Sequence[Lease]) -> Answers:
        """Extend leases, each by its own length from now.

        Returns:
            list in the order of ``leases``: None when extended; LeaseLostError or ExecutionNotFoundError when it is
            gone for good; another StoreError when the store could not be asked.
        """
        if not self._renewing.is_worth_calling:
            return await self._connection.try_all([renew(lease) for lease in leases])
        groups = list(together(leases))
        calls = [renew_all([leases[position] for position in group]) for group in groups]
        found: list[Answers | StoreError] = await self._connection.try_all(calls)
        results: dict[int, StoreError | None] = {}
        apart: list[int] = []
        for group, answers in zip(groups, found, strict=True):
            if isinstance(answers, LibraryMissingError):
                self._renewing.note_missing()
            elif not isinstance(answers, StoreError):
                self._renewing.note_present()
            if isinstance(answers, LibraryMissingError | ElsewhereError):
                apart += group
            else:
                each = [answers] * len(group) if isinstance(answers, StoreError) else answers
                results |= zip(group, each, strict=True)
        # While a cluster moves a slot, what is whole on one side can be renewed by itself.
        singly = await self._connection.try_all([renew(leases[position]) for position in apart])
        results |= zip(apart, singly, strict=True)
        return [results[position] for position in range(len(leases))]


def together(leases: Sequence[Lease]) -> Iterator[list[int]]:
    """Yield the positions of leases that one call can renew: of one partition, and of the same length."""
    groups: dict[tuple[str, int], list[int]] = {}
    for position, lease in enumerate(leases):
        tag = ExecutionKeys.of(lease.execution_id).tag
        groups.setdefault((tag, lease.ttl_ms), []).append(position)
    for group in groups.values():
        for start in range(0, len(group), LEASES_PER_CALL):
            yield group[start : start + LEASES_PER_CALL]


def renew_all(group: Sequence[Lease]) -> Call[Answers]:
    """Extend leases of one partition and length; the answers are in their order."""
    partition = ExecutionKeys.of(group[0].execution_id).partition
    keys = (partition.index("lease_expiry"), partition.noop)
    args: list[Part] = [group[0].ttl_ms, HISTORY_GRACE_MS]
    for lease in group:
        args += [lease.execution_id, lease.attempt_index, lease.attempt_id, lease.lease_id, lease.epoch]
    return Call(("FCALL", FUNCTION, len(keys), *keys, *args), partial(read_answers, len(group)))


def read_answers(count: int, reply: Any) -> Answers:
    """Read the reply for so many leases.

    Raises:
        StoreError: the whole call was refused.
        StoreScriptError: it does not answer for each of them.
    """
    if not isinstance(reply, list) or reply[:1] != [1]:
        status_of(FUNCTION, reply)
    answers = [read_answer(one) for one in reply[3:]]
    if len(answers) != count:
        raise StoreScriptError(f"{FUNCTION}: {len(answers)} answers for {count} leases")
    return answers


def read_answer(reply: Any) -> StoreError | None:
    """Read what has become of one lease."""
    if reply == RENEWED:
        return None
    try:
        if reply[:1] == [STOPPED]:
            return StoreScriptError(reply[1].decode(errors="replace"))
        status_of(FUNCTION, reply)
    except StoreError as refusal:
        return refusal
    except UNREADABLE:
        pass  # as what is no refusal
    return StoreScriptError(f"{FUNCTION}: unexpected answer {reply!r:.200}")


def renew(lease: Lease) -> Call[None]:
    """Extend one lease."""
    keys = ExecutionKeys.of(lease.execution_id)
    return fcall(
        "ff_renew_lease",
        (keys.core, keys.part("lease:current"), keys.part("lease:history"), keys.partition.index("lease_expiry")),
        (
            *(lease.execution_id, lease.attempt_index, lease.attempt_id, lease.lease_id, lease.epoch),
            *(lease.ttl_ms, HISTORY_GRACE_MS),
        ),
        lambda _: None,
    )
