"""Holds the worker instance's alive key and advertises its capabilities."""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil
import trio

from ffsuper.errors import FencedError, InstanceTakenError
from ffsuper.messages import LaneId
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.presence import Presence

LOG = logging.getLogger(__name__)

RENEWALS_PER_TTL = 4
RENEWALS_PER_ADVERTISEMENT = 4
WITHDRAW_S = 2.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


async def run(
    presence: Presence,
    capabilities: str,
    ttl_ms: int,
    lanes: Sequence[LaneId],
    task_status: trio.TaskStatus[int | None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take the alive key, advertise, report started, and keep the key until cancelled; then withdraw both.

    Started with the process id of the predecessor that the key was taken over from, None where there was none.

    Args:
        capabilities: comma-separated and sorted; may be empty.

    Raises:
        InstanceTakenError: another live process has this instance id.
        FencedError: another process has taken the key from us.
        StoreError: the store cannot be reached at the start.
    """
    holder = describe_self()
    predecessor = await take_key(presence, holder, ttl_ms)
    try:
        await presence.advertise(capabilities, lanes)
        task_status.started(predecessor)
        await keep_key(presence, holder, ttl_ms, capabilities, lanes)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WITHDRAW_S):
            try:
                await presence.withdraw()
                await presence.release_alive(holder)
            except STORE_AWAY as error:
                LOG.warning("alive key left to expire", extra={"error": error})


async def take_key(presence: Presence, holder: bytes, ttl_ms: int) -> int | None:
    """Take the alive key, from a holder that is provably dead if need be; return this one's process id."""
    while (found := await presence.take_alive(holder, ttl_ms)) is not None:
        if found and not is_provably_dead(found):
            raise InstanceTakenError(f"another worker holds this instance id: {described(found)}")
        if await presence.replace_alive(found, holder, ttl_ms):
            LOG.info("alive key taken over from a dead process", extra={"holder": described(found)})
            return int(json.loads(found)["pid"]) if found else None
    return None


async def keep_key(
    presence: Presence, holder: bytes, ttl_ms: int, capabilities: str, lanes: Sequence[LaneId]
) -> None:
    """Renew the alive key for ever, and what is advertised from time to time: a store can lose that, too.

    Raises:
        FencedError: it is another's.
    """
    outage = Outage(LOG)
    for number in itertools.count(1):
        await trio.sleep(ttl_ms / 1000 / RENEWALS_PER_TTL)
        try:
            if number % RENEWALS_PER_ADVERTISEMENT == 0:
                await presence.advertise(capabilities, lanes)
            if await presence.renew_alive(holder, ttl_ms):
                outage.over()
                continue
            # Gone, but not taken: it ran out while the store was away, or was deleted by hand.
            taken_by = await presence.take_alive(holder, ttl_ms)
        except STORE_AWAY as error:
            await outage.wait(error)
            continue
        if taken_by is not None and taken_by != holder:
            raise FencedError(f"another process has taken this worker's instance id: {described(taken_by)}")


def describe_self() -> bytes:
    """Return what the alive key says about this process: a nonce, and how to tell whether it still lives."""
    process = psutil.Process()
    return json.dumps(
        {
            "nonce": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "boot": BOOT_ID.read_text().strip(),
            "pid": os.getpid(),
            "process_started": process.create_time(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    ).encode()


def is_provably_dead(holder: bytes) -> bool:
    """Tell whether the holder was a process of this very boot of this host, and is gone.

    A holder that says less about itself (a worker of the reference stores ``1``) is never taken for dead.
    """
    try:
        told = json.loads(holder)
        if told["host"] != socket.gethostname() or told["boot"] != BOOT_ID.read_text().strip():
            return False
        return bool(psutil.Process(told["pid"]).create_time() != told["process_started"])
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError):
        return False


def described(holder: bytes) -> str:
    """Say who holds an alive key."""
    try:
        told = json.loads(holder)
        return f"process {told['pid']} on {told['host']}, since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return f"a process that says {holder.decode(errors='replace')!r}"
