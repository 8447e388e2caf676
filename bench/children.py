"""Time to a ready child and its memory: our fork server beside multiprocessing's. ``python -m bench.children``.

Both preload the demo's handlers. A child counts as ready when it has said so; memory is its proportional set size.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

import trio

from ffsuper.child.server_process import ForkServerSettings
from ffsuper.child.spawning import open_fork_server

CHILDREN = 9
ROUNDS = 3
HANDLERS = "ffsuper.demo.handlers"


def proportional_set_mb(pid: int) -> float:
    """Return a process's share of the memory it maps."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (kib,) = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return kib / 1024


def told(name: str, times_ms: list[float], memory_mb: list[float]) -> str:
    """Return one line of the table."""
    later = times_ms[1:]
    return (
        f"{name:34} first {times_ms[0]:4.0f} ms   then {statistics.median(later):5.1f} ms "
        f"({min(later):.1f} to {max(later):.1f})   {statistics.median(memory_mb):4.1f} MB a child"
    )


async def ours() -> str:
    """Measure our fork server."""
    times_ms, children = [], []
    async with open_fork_server(ForkServerSettings((HANDLERS,)), lambda *_: None) as server:
        for _ in range(CHILDREN):
            began_s = time.perf_counter()
            children.append(await server.spawn())
            times_ms.append((time.perf_counter() - began_s) * 1000)
        memory_mb = [proportional_set_mb(child.pid) for child in children]
        for child in children:
            await child.aclose()
    return told("ffsuper", times_ms, memory_mb)


def say_ready(connection: Connection) -> None:
    """Be a child of multiprocessing's."""
    connection.send(os.getpid())
    connection.recv()


def theirs() -> str:
    """Measure multiprocessing's fork server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([HANDLERS])
    times_ms, children = [], []
    for _ in range(CHILDREN):
        ours_end, theirs_end = context.Pipe()
        began_s = time.perf_counter()
        child = context.Process(target=say_ready, args=(theirs_end,))
        child.start()
        ours_end.recv()
        times_ms.append((time.perf_counter() - began_s) * 1000)
        children.append((child, ours_end))
    memory_mb = [proportional_set_mb(child.pid or 0) for child, _ in children]
    for child, connection in children:
        connection.send(None)
        child.join()
    return told("multiprocessing", times_ms, memory_mb)


if __name__ == "__main__":
    for _ in range(ROUNDS):
        print(trio.run(ours))
        print(theirs())
