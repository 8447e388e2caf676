"""Handlers that children run in the tests: well-behaved ones, and every kind of misbehaviour."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from ffsuper import Cancel, Cancelled, Context, Defer, Fatal, SoftTimeout, Suspend, WaitChildren, handler
from tests.child.descriptors import own_descriptors


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
        "cancelled": ctx.cancelled,
    }


class Mute(Exception):  # noqa: N818 -- it says nothing
    def __str__(self) -> str:
        raise RuntimeError


@handler("raise")
def raises(ctx: Context, name: str) -> None:
    errors = {
        "value": ValueError("broken"),
        "fatal": Fatal("hopeless"),
        "defer": Defer(timedelta(hours=1)),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "long": ValueError("x" * 100_000),
        "surrogate": ValueError("a file named \udcff"),
        "mute": Mute(),
        "wordless": Fatal(),
    }
    raise errors[name]


@handler("return-defer")
def return_defer(ctx: Context) -> Defer:
    return Defer(60)


@handler("no-text")
def no_text(ctx: Context) -> None:
    """Say what is no text, wherever a text is wanted."""
    ctx.progress(5, "\udcff \ud800")
    raise OSError("no file \udcff \ud800")


@handler("unstorable")
def unstorable(ctx: Context) -> object:
    return object()


@handler("no-number")
def no_number(ctx: Context) -> float:
    return float("nan")


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


@handler("stubborn")
def stubborn(ctx: Context) -> None:
    """Take long to clean up after a timeout."""
    try:
        ctx.progress(0)
        time.sleep(3600)
    except SoftTimeout:
        ctx.progress(1, "cleaning up")
        time.sleep(3600)


@handler("swallow")
def swallow(ctx: Context) -> bool:
    try:
        ctx.progress(0)
        time.sleep(3600)
    except Cancelled:
        return ctx.cancelled
    return False


@handler("until-drain")
def until_drain(ctx: Context) -> str:
    ctx.progress(0)
    while not ctx.draining:
        time.sleep(0.001)
    return "drained"


class SlowResult(dict[str, int]):
    """Takes its time to become JSON, and says when it begins."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(a=1)
        self._ctx = ctx

    def items(self) -> Any:
        self._ctx.progress(99, "encoding")
        time.sleep(0.2)
        return super().items()


@handler("slow-result")
def slow_result(ctx: Context) -> SlowResult:
    return SlowResult(ctx)


LATE: list[tuple[threading.Event, threading.Thread]] = []


@handler("late-thread")
def late_thread(ctx: Context) -> None:
    """Leave a thread behind that reports progress when the next handler tells it to."""
    go = threading.Event()

    def report() -> None:
        go.wait()
        ctx.progress(66, f"late, cancelled {ctx.cancelled}")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    LATE.append((go, thread))


@handler("after-late-thread")
def after_late_thread(ctx: Context) -> str:
    go, thread = LATE.pop()
    go.set()
    thread.join()
    return "not disturbed"


@handler("progress-storm")
def progress_storm(ctx: Context) -> NoReturn:
    """Report progress from several threads, without end."""

    def report() -> None:
        while True:
            ctx.progress(50, "x" * 1_000)

    for _ in range(2):
        threading.Thread(target=report, daemon=True).start()
    while True:
        ctx.progress(1, "main")


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
        case "unflushed":
            print("not flushed")
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


@handler("helper")
def helper(ctx: Context) -> None:
    """Start a program, and wait for ever."""
    with subprocess.Popen(["sleep", "3600"]) as program:
        ctx.progress(1, str(program.pid))


@handler("long-line")
def long_line(ctx: Context) -> None:
    print("x" * 5_000)


@handler("inherited-descriptors")
def inherited_descriptors(ctx: Context) -> str:
    """List what a program started in the plainest way gets."""
    return subprocess.run(
        ["ls", "/proc/self/fd"], stdout=subprocess.PIPE, close_fds=False, check=True, text=True
    ).stdout


@handler("descriptors")
def descriptors(ctx: Context) -> dict[str, str]:
    return own_descriptors()


@handler("environment")
def environment(ctx: Context) -> dict[str, str]:
    return dict(os.environ)


@handler("modules")
def modules(ctx: Context) -> list[str]:
    return sorted({name.split(".")[0] for name in sys.modules})


GARBAGE = {
    "not an object": b"\x00\x00\x00\x04\x00\x00\x00\x00null",
    "oversized": b"\xff\xff\xff\xff\xff\xff\xff\xff",
    "truncated": b"\x00\x00\x00\x40\x00\x00\x00\x00{",
    "unknown": b'\x00\x00\x00\x0e\x00\x00\x00\x00{"type":"Own"}',
}


@handler("garbage")
def garbage(ctx: Context, what: str | None) -> None:
    """Write to the supervisor's socket what is no message."""
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if link.startswith("socket:"):
            os.write(int(name), GARBAGE[what or "not an object"])
    if what == "truncated":
        os._exit(1)
    time.sleep(3600)


@handler("close-all")
def close_all(ctx: Context) -> None:
    os.closerange(0, 100)
    time.sleep(3600)


@handler("block-signals")
def block_signals(ctx: Context) -> None:
    ctx.progress(1, "blocking")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(3600)


@handler("signals")
def signals(ctx: Context) -> list[int]:
    """Return whether SIGTERM, SIGINT and SIGCHLD are ignored, and what is blocked."""
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return [int(signal.getsignal(number) is signal.SIG_IGN) for number in asked] + [len(blocked)]


@handler("random")
def randoms(ctx: Context) -> float:
    return random.random()


@handler("backtrack")
def backtrack(ctx: Context) -> None:
    """Match a pattern for longer than the universe will last, without letting go of the interpreter."""
    ctx.progress(1, "matching")
    re.match(r"(a+)+$", "a" * 100 + "b")


@handler("hold-gil")
def hold_gil(ctx: Context) -> None:
    """Sleep in C without letting go of the interpreter."""
    ctx.progress(1, "holding")
    ctypes.PyDLL(None).sleep(3600)


@handler("daemon")
def daemon(ctx: Context) -> None:
    """Leave a process behind in a session of its own, as daemons do, and wait for ever."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            time.sleep(3600)
        os._exit(0)
    ctx.progress(1, os.read(read, 20).decode())
    time.sleep(3600)


@handler("emit")
def emit(ctx: Context, count: int) -> None:
    for number in range(count):
        ctx.emit(f"frame {number}", "delta", metadata=str(number))


@handler("emit-too-much")
def emit_too_much(ctx: Context) -> None:
    ctx.emit(bytes(65_537))


@handler("usage")
def usage(ctx: Context) -> list[Any]:
    used = ctx.report_usage("11111111-1111-1111-1111-111111111111", {"tokens": 5}, dedup_key="once")
    return [used.status, used.dimension, used.current, used.limit]


@handler("ask-for-approval")
def ask_for_approval(ctx: Context) -> Any:
    """Suspend on a waitpoint that was handed out, and return what the signals said."""
    if ctx.signals:
        return [[one.name, one.payload.decode()] for one in ctx.signals]
    point = ctx.create_waitpoint(60)
    ctx.progress(1, point.token)
    raise Suspend("approved", timeout=30, on_timeout="resume", waitpoint=point, reason="waiting_for_approval")


@handler("deadline")
def deadline(ctx: Context) -> str:
    return str(ctx.deadline)


@handler("other-ends")
def other_ends(ctx: Context, how: str) -> Any:
    return WaitChildren() if how == "wait" else Cancel("enough")
