"""What an alive key says about the process that holds it, and whether that process is dead for certain."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Process ids mean something within one of these only: containers may have the host's name and boot in common.
PID_NAMESPACE = Path("/proc/self/ns/pid")
# Of /proc/PID/stat, behind the name: the state, and the time of the start in clock ticks since the boot. Other forms
# of that time shift when the clock is set.
STATE, STARTED_TICKS = 0, 19
DEAD_STATES = (b"Z", b"X")


def describe_self() -> bytes:
    """Return what the alive key says about this process: a nonce, and how to tell whether it still lives."""
    return json.dumps(
        {
            "nonce": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "boot": BOOT_ID.read_text().strip(),
            "pid_namespace": PID_NAMESPACE.readlink().name,
            "pid": os.getpid(),
            "started_ticks": int(status_of(os.getpid())[STARTED_TICKS]),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    ).encode()


def status_of(pid: int) -> list[bytes]:
    """Return the fields of a process's status behind its name."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def told_by(found: bytes) -> dict[str, Any]:
    """Return what a key of ours says; nothing when that is not of our form."""
    try:
        told = json.loads(found)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def is_provably_dead(holder: bytes) -> bool:
    """Tell whether the holder was a process that we would see here if it lived, and is gone.

    A holder that says less about itself (a worker of the reference stores ``1``) is never taken for dead.
    """
    told = told_by(holder)
    pid, ticks = told.get("pid"), told.get("started_ticks")
    here = (socket.gethostname(), BOOT_ID.read_text().strip(), PID_NAMESPACE.readlink().name)
    there = (told.get("host"), told.get("boot"), told.get("pid_namespace"))
    if here != there or type(pid) is not int or type(ticks) is not int:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's, perhaps hidden from us
    except OverflowError:
        return False
    try:
        status = status_of(pid)
    except OSError:
        return False
    return status[STATE] in DEAD_STATES or int(status[STARTED_TICKS]) != ticks


def described(holder: bytes) -> str:
    """Say who holds an alive key."""
    told = told_by(holder)
    if {"pid", "host", "since"} <= told.keys():
        return f"process {told['pid']} on {told['host']}, since {told['since']}"
    return f"a process that says {holder.decode(errors='replace')[:100]!r}"
