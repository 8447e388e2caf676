"""Handlers that children run in the tests: well-behaved ones, and every kind of misbehaviour."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ffsuper import Cancelled, Context, Defer, Fatal, SoftTimeout, handler


@dataclass
class Job:
    url: str
    width: int = 200


@handler("echo")
def echo(ctx: Context, payload: bytes) -> bytes:
    return payload


@handler("json")
def as_json(ctx: Context, payload: Any) -> Any:
    return {"got": payload}


@handler("typed", timeout_s=30)
def typed(ctx: Context, job: Job) -> Job:
    return Job(job.url.upper(), job.width * 2)


@handler("context")
def context(ctx: Context) -> dict[str, Any]:
    ctx.progress(50, "half way")
    ctx.log.info("a line in the log")
    return {
        "execution_id": ctx.execution_id,
        "kind": ctx.kind,
        "attempt": [ctx.attempt_index, ctx.attempt_type],
        "tags": dict(ctx.tags),
        "draining": ctx.draining,
    }


@handler("raise")
def raises(ctx: Context, name: str) -> None:
    errors = {
        "value": ValueError("broken"),
        "fatal": Fatal("hopeless"),
        "defer": Defer(timedelta(hours=1)),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "long": ValueError("x" * 100_000),
    }
    raise errors[name]


@handler("return-defer")
def return_defer(ctx: Context) -> Defer:
    return Defer(60)


@handler("unstorable")
def unstorable(ctx: Context) -> object:
    return object()


@handler("bad-progress")
def bad_progress(ctx: Context) -> None:
    ctx.progress(101)


@handler("sleep")
def sleep(ctx: Context, seconds: float) -> str:
    try:
        ctx.progress(0, "asleep")
        time.sleep(seconds)
    except SoftTimeout:
        return "cleaned up"
    except Cancelled:
        print("cancelled inside")
        raise
    return "slept"


@handler("print")
def prints(ctx: Context, count: int) -> None:
    for number in range(count):
        print("line", number)
    print("an error", file=sys.stderr)


@handler("flood")
def flood(ctx: Context, megabytes: int) -> str:
    block = b"x" * (1 << 20)
    for _ in range(megabytes):
        os.write(1, block)
    return "flooded"


@handler("die")
def die(ctx: Context, how: str) -> None:
    print("last words", flush=True)
    match how:
        case "exit":
            os._exit(0)
        case "code":
            os._exit(7)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


@handler("grandchild")
def grandchild(ctx: Context) -> int:
    """Leave a process behind that holds the pipes and the socket, and die."""
    pid = os.fork()
    if pid == 0:
        time.sleep(3600)
        os._exit(0)
    ctx.progress(1, str(pid))
    os._exit(0)


@handler("descriptors")
def descriptors(ctx: Context) -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed them
    return found


@handler("environment")
def environment(ctx: Context) -> dict[str, str]:
    return dict(os.environ)


@handler("modules")
def modules(ctx: Context) -> list[str]:
    return sorted({name.split(".")[0] for name in sys.modules})


@handler("garbage")
def garbage(ctx: Context) -> None:
    """Write to the supervisor's socket what is no message."""
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if link.startswith("socket:"):
            socket.socket(fileno=int(name)).sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00null")
    time.sleep(3600)


@handler("close-all")
def close_all(ctx: Context) -> None:
    os.closerange(0, 100)
    time.sleep(3600)


@handler("block-signals")
def block_signals(ctx: Context) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(3600)


@handler("hold-gil")
def hold_gil(ctx: Context) -> None:
    """Sleep in C without letting go of the interpreter."""
    ctx.progress(1, "holding")
    ctypes.PyDLL(None).sleep(3600)
