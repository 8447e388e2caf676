"""The secrets that sign waitpoint tokens: installed once for all partitions, and changed when an operator says so."""

from __future__ import annotations

import secrets

from ffsuper.errors import LibraryMissingError, StoreError
from ffsuper.store.keys import PartitionKeys
from ffsuper.store.replies import Call, fcall
from ffsuper.store.wire import Wire

KID = "k1"
SECRET_BYTES = 32


def install(wire: Wire, partitions: int, *, thoroughly: bool) -> None:
    """Give every partition a secret that has none; one for all, drawn now and known to the store only.

    Args:
        thoroughly: also where the last partition has one, and where a secret was lost.

    Raises:
        StoreError: the store could not be asked.
    """
    if not thoroughly and wire.run(is_installed(partitions - 1)):
        return  # the last one: an earlier try that was interrupted is finished
    secret = secrets.token_hex(SECRET_BYTES)
    replies = wire.exchange([install_secret(number, secret).command for number in range(partitions)])
    for reply in replies:
        if isinstance(reply, StoreError) and not isinstance(reply, LibraryMissingError):
            raise reply


def is_installed(partition: int) -> Call[bool]:
    """Read whether a partition has a secret."""
    return Call(("HEXISTS", PartitionKeys.of_index(partition).waitpoint_hmac, "current_kid"), bool)


def install_secret(partition: int, secret: str) -> Call[None]:
    """Give one partition the secret, unless it has one."""
    hmac = PartitionKeys.of_index(partition).waitpoint_hmac
    return fcall("ffsuper_install_secret", (hmac,), (KID, secret), lambda _: None)


def rotate_secret(partition: int, kid: str, secret: str, grace_ms: int) -> Call[str]:
    """Make another secret the current one of a partition; tells ``rotated``, ``kept`` or ``in_progress``.

    Args:
        secret: hex.
        grace_ms: for how long tokens of the former one stay valid.
    """
    keys = PartitionKeys.of_index(partition)
    touched = (keys.waitpoint_hmac, keys.rotate_lock)
    return fcall("ffsuper_rotate_secret", touched, (kid, secret, grace_ms), lambda status: status.text(0))
