"""Handlers of the workers under test; they leave traces in files, so that what really ran is known for certain."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ffsuper import Context, Defer, SoftTimeout, handler


def trace(folder: str, what: str) -> None:
    """Append a line to the history of real effects."""
    with (Path(folder) / "history").open("a") as history:
        history.write(f"{what}\n")


@handler("echo")
def echo(ctx: Context, payload: bytes) -> bytes:
    return payload


@handler("no-op")
def no_op(ctx: Context) -> None:
    return None


@handler("work")
def work(ctx: Context, job: dict[str, Any]) -> int:
    """Leave a trace, work a little, leave another."""
    trace(job["folder"], f"start {ctx.execution_id} {ctx.attempt_index} {os.getpid()} {time.monotonic()}")
    time.sleep(job["seconds"])
    trace(job["folder"], f"end {ctx.execution_id} {ctx.attempt_index} {os.getpid()} {time.monotonic()}")
    return os.getpid()


@handler("wait-for-file")
def wait_for_file(ctx: Context, job: dict[str, Any]) -> str:
    """Run until a file appears; say by another that it has begun."""
    folder = Path(job["folder"])
    (folder / f"started-{ctx.attempt_index}").write_text(str(os.getpid()))
    while not (folder / "go").exists():
        time.sleep(0.005)
    return ctx.attempt_type


@handler("progress")
def progress(ctx: Context) -> None:
    ctx.progress(42, "getting on")


@handler("defer-once")
def defer_once(ctx: Context) -> str:
    if ctx.attempt_type != "resumed":
        raise Defer(0.05)
    return f"attempt {ctx.attempt_index}, {ctx.attempt_type}"


@handler("fail-once")
def fail_once(ctx: Context) -> str:
    if ctx.attempt_index == 0:
        raise ValueError("the first time")
    return ctx.attempt_type


@handler("segfault")
def segfault(ctx: Context) -> None:
    import ctypes

    print("before the crash", flush=True)
    ctypes.string_at(0)


@handler("stubborn", timeout_s=0.2)
def stubborn(ctx: Context) -> None:
    while True:
        try:
            time.sleep(3600)
        except SoftTimeout:
            continue


@handler("yielding", timeout_s=0.2)
def yielding(ctx: Context) -> None:
    time.sleep(3600)
