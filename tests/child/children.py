"""Real children for tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from ffsuper.child.process import Child
from ffsuper.child.server_process import ForkServerSettings
from ffsuper.child.spawning import ForkServer, open_fork_server
from ffsuper.messages import Ended, FromChild, Outcome, ReceivedSignal, Start

SETTINGS = ForkServerSettings(("tests.child.handlers_for_tests",))
LIMIT_S = 20.0
ID = "{fp:1}:x"

Output = list[tuple[int, str, str]]


@asynccontextmanager
async def serving(settings: ForkServerSettings = SETTINGS, output: Output | None = None) -> AsyncIterator[ForkServer]:
    lines: Output = [] if output is None else output
    with trio.fail_after(LIMIT_S):
        async with open_fork_server(
            settings, lambda child, stream, line: lines.append((child.pid, stream, line))
        ) as server:
            yield server


@asynccontextmanager
async def one_child(output: Output | None = None, settings: ForkServerSettings = SETTINGS) -> AsyncIterator[Child]:
    async with serving(settings, output) as server:
        child = await server.spawn()
        yield child
        await child.aclose()


def start(
    kind: str,
    payload: object = b"",
    *,
    task: int = 1,
    signals: tuple[ReceivedSignal, ...] = (),
    deadline_ms: int | None = None,
) -> Start:
    """Return the start of an execution; a payload that is not bytes goes as JSON."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Start(task, ID, kind, 3, "retry", {"color": "blue"}, deadline_ms, signals, data)


async def ask(child: Child, kind: str, payload: object = b"") -> FromChild | Outcome | None:
    """Start an execution and return the first thing that the child says about it."""
    await child.send(start(kind, payload))
    return await hear(child)


async def hear(child: Child) -> FromChild | Outcome | None:
    """Return what the child says next; of an end, what it came to."""
    message = await child.receive()
    return message.outcome if isinstance(message, Ended) else message
