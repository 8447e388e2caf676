"""Renewal of held leases."""

from __future__ import annotations

from collections.abc import Sequence

from ffsuper.errors import StoreError
from ffsuper.messages import Lease
from ffsuper.store.connection import Connection
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call, fcall

HISTORY_GRACE_MS = 5_000  # the protocol's: how long lease:current outlives the lease


class Leases:
    """What the lease renewer does in the store, on a connection that nothing else can hold up."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def renew(self, leases: Sequence[Lease], timeout_s: float) -> list[StoreError | None]:
        """Extend leases, each by its own length from now.

        Returns:
            list in the order of ``leases``: None when extended; LeaseLostError or ExecutionNotFoundError when it is
            gone for good; another StoreError when the store could not be asked.
        """
        return await self._connection.try_all([renew(lease) for lease in leases], timeout_s)


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
