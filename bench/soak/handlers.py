"""The handlers of the worker whose children run one execution at a time."""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from typing import Any

from bench.soak.marks import mark
from ffsuper import Cancelled, Context, Defer, Fatal, SoftTimeout, Suspend, handler

CHUNK = 8 << 20
# Far above the limit of the worker's children; more is not needed to be killed for it.
HOARD = 60
FRAMES = 20


@handler("no-op")
def no_op(ctx: Context) -> int:
    """Do nothing."""
    mark("start", ctx.execution_id)
    return 1


@handler("compute")
def compute(ctx: Context, rounds: int) -> str:
    """Use the processor for some milliseconds."""
    digest = b""
    for _ in range(rounds):
        digest = hashlib.sha256(digest * 100).digest()
    return digest.hex()


@handler("linger")
def linger(ctx: Context, seconds: float) -> float:
    """Take a while, and show progress meanwhile."""
    for step in range(4):
        ctx.progress(25 * step, f"step {step}")
        time.sleep(seconds / 4)
    return seconds


@handler("echo")
def echo(ctx: Context, payload: bytes) -> bytes:
    """Return what was given, large as it is."""
    return payload


@handler("stream")
def stream(ctx: Context, text: str) -> int:
    """Emit frames."""
    for number in range(FRAMES):
        ctx.emit(text, metadata=str(number))
    return FRAMES


@handler("fail-once")
def fail_once(ctx: Context) -> str:
    """Fail, and be retried."""
    if ctx.attempt_index == 0:
        raise ValueError("the first time")
    return ctx.attempt_type


@handler("fail-for-good")
def fail_for_good(ctx: Context) -> None:
    """Fail, so that what depends on it is skipped."""
    raise Fatal("it cannot be done")


@handler("defer-once")
def defer_once(ctx: Context) -> str:
    """Go on a little later."""
    if ctx.attempt_type != "resumed":
        raise Defer(0.5)
    return ctx.attempt_type


@handler("approval")
def approval(ctx: Context) -> Any:
    """Suspend until a signal comes."""
    if not ctx.signals:
        raise Suspend("go", timeout=120)
    mark("signal", ctx.execution_id)
    return ctx.signals[0].payload.decode()


@handler("member")
def member(ctx: Context, payload: Any) -> Any:
    """Be a member of a flow: pass on what came from before."""
    return [payload]


@handler("until-cancelled")
def until_cancelled(ctx: Context) -> None:
    """Run until it is cancelled, and clean up then."""
    try:
        time.sleep(3600)
    except Cancelled:
        time.sleep(0.01)
        raise


@handler("yielding", timeout_s=0.2)
def yielding(ctx: Context) -> str:
    """Overrun the timeout, and heed it."""
    if ctx.attempt_index == 0:
        time.sleep(3600)
    return ctx.attempt_type


@handler("stubborn", timeout_s=0.2)
def stubborn(ctx: Context) -> str:
    """Overrun the timeout, and do not heed it."""
    while ctx.attempt_index == 0:
        try:
            time.sleep(3600)
        except SoftTimeout:
            continue
    return ctx.attempt_type


@handler("leave")
def leave(ctx: Context) -> str:
    """End the process."""
    if ctx.attempt_index == 0:
        print("leaving", flush=True)
        os._exit(3)
    return ctx.attempt_type


@handler("segfault")
def segfault(ctx: Context) -> str:
    """Crash."""
    if ctx.attempt_index == 0:
        ctypes.string_at(0)
    return ctx.attempt_type


@handler("hoard")
def hoard(ctx: Context) -> str:
    """Take more memory than the limit allows."""
    if ctx.attempt_index == 0:
        hoarded = []
        for _ in range(HOARD):
            hoarded.append(bytearray(b"x") * CHUNK)
            time.sleep(0.01)
        time.sleep(3600)
    return ctx.attempt_type
