"""Handlers of the workers under test; they leave traces in files, so that what really ran is known for certain."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ffsuper import Cancel, Cancelled, Context, Defer, Fatal, SoftTimeout, Suspend, WaitChildren, handler


def trace(folder: str, what: str) -> None:
    """Append a line to the history of real effects."""
    with (Path(folder) / "history").open("a") as history:
        history.write(f"{what}\n")


@handler("echo")
def echo(ctx: Context, payload: bytes) -> bytes:
    return payload


@handler("append")
def append(ctx: Context, job: dict[str, str]) -> dict[str, str]:
    """Append the letter that the tags name."""
    return {"text": job["text"] + ctx.tags["letter"]}


@handler("fail-for-good")
def fail_for_good(ctx: Context) -> None:
    raise Fatal("it cannot be done")


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


@handler("approval")
def approval(ctx: Context, options: dict[str, Any]) -> Any:
    """Suspend until signals come, and return what they said."""
    if ctx.attempt_type == "resumed":
        return [[one.name, one.payload.decode()] for one in ctx.signals]
    raise Suspend(*options["signals"], **options.get("more", {}))


@handler("approval-then-trouble")
def approval_then_trouble(ctx: Context, options: dict[str, Any]) -> Any:
    """Wait for a signal, then crash and fail, and in the third attempt run until a file appears."""
    if not ctx.signals:
        raise Suspend("go")
    if ctx.attempt_index == 0:
        os._exit(3)
    if ctx.attempt_index == 1:
        raise ValueError("the second time")
    folder = Path(options["folder"])
    (folder / f"started-{ctx.attempt_index}").write_text(ctx.attempt_type)
    while not (folder / "go").exists():
        time.sleep(0.005)
    return [ctx.attempt_index, ctx.attempt_type, ctx.signals[0].payload.decode()]


@handler("approval-beforehand")
def approval_beforehand(ctx: Context, folder: str) -> Any:
    """Hand the token out, wait until a signal has certainly come, and suspend only then."""
    if ctx.signals:
        return [ctx.attempt_index, ctx.signals[0].payload.decode()]
    point = ctx.create_waitpoint(60)
    (Path(folder) / "token").write_text(f"{point.id} {point.token}")
    while not (Path(folder) / "sent").exists():
        time.sleep(0.001)
    raise Suspend("go", waitpoint=point)


@handler("stream")
def stream(ctx: Context, count: int) -> None:
    """Emit frames; fail the first attempt half way."""
    for number in range(count):
        if ctx.attempt_index == 0 and number == count // 2:
            raise ValueError("half way")
        ctx.emit(f"{ctx.attempt_index}.{number}", metadata=str(number))


@handler("spend")
def spend(ctx: Context, budget_id: str) -> list[str]:
    return [ctx.report_usage(budget_id, {"tokens": 6}).status for _ in range(3)]


@handler("wait-for-children")
def wait_for_children(ctx: Context) -> str:
    if ctx.attempt_type == "resumed":
        return "resumed"
    raise WaitChildren


@handler("cancel-itself")
def cancel_itself(ctx: Context) -> None:
    raise Cancel("not needed")


@handler("until-cancelled")
def until_cancelled(ctx: Context, folder: str) -> None:
    """Say when it was told."""
    trace(folder, "started")
    try:
        time.sleep(3600)
    except Cancelled:
        trace(folder, f"cancelled {time.time()}")
        raise


@handler("no-progress", progress_timeout_s=0.3)
def no_progress(ctx: Context) -> str:
    """Show progress for longer than the timeout, then no more."""
    for number in range(5):
        ctx.progress(number)
        time.sleep(0.1)
    try:
        time.sleep(3600)
    except SoftTimeout as error:
        return str(error)
    return "never"


@handler("pid")
def pid(ctx: Context) -> int:
    return os.getpid()


@handler("tells-its-trace")
def tells_its_trace(ctx: Context) -> str:
    return ctx.traceparent


@handler("grow")
def grow(ctx: Context) -> None:
    """Take more and more memory."""
    hoard = []
    while True:
        hoard.append(bytearray(8 << 20))
        time.sleep(0.01)
