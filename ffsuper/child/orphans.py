"""What a supervisor that was killed has left: its processes are known by a mark in their command lines."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection

import psutil

POLL_S = 0.01
FORK_SERVER = (sys.executable, "-m", "ffsuper.child.forkserver")


def owner_mark(owner: str, supervisor_pid: int) -> str:
    """Return what the processes of a supervisor are known by."""
    return f"{owner}/{supervisor_pid}"


def kill_orphans(owner: str, supervisor_pid: int, timeout_s: float) -> bool:
    """Kill what a dead supervisor's fork server and children have left, should they not be dead yet. Blocks.

    Returns:
        whether they are all dead.
    """
    mark, own = owner_mark(owner, supervisor_pid), set(psutil.Process().children(recursive=True))
    orphans = [process for process in psutil.process_iter() if process not in own and has_mark(process, mark)]
    for orphan in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    give_up_s = time.monotonic() + timeout_s
    while any(map(is_running, orphans)):
        if time.monotonic() > give_up_s:
            return False
        time.sleep(POLL_S)
    return True


def kill_sessions(leaders: Collection[int]) -> None:
    """Kill what is left of the sessions of dead children: a child leads one, and what it has started is in it.

    For children whose fork server is dead too; while it lives it does so itself, and more thoroughly.
    """
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) in leaders:
                os.kill(pid, signal.SIGKILL)


def is_running(process: psutil.Process) -> bool:
    """Tell whether a process runs; a dead one that nobody has reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def has_mark(process: psutil.Process, mark: str) -> bool:
    """Tell whether a process is a fork server with this mark, or a child of it."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return command[1:3] == list(FORK_SERVER[1:]) and command[-1] == mark
