"""What runs while all goes wrong: short and long work, failures, crashes, pauses."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from ffsuper import Context, Defer, Suspend, handler
from tests.chaos.history import CRASHING, EFFECT, PAUSED, RETURNED, Witness

STEP_S = 0.05
FRAMES = 8


@handler("chaos")
def chaos(ctx: Context, job: dict[str, Any]) -> dict[str, Any]:
    """Do what the job says, and leave a history; return who has done it."""
    with Witness(Path(job["folder"]), ctx.execution_id, ctx.attempt_index, ctx.attempt_type) as witness:
        BEHAVIOURS[job["does"]](ctx, job, witness)
        witness.ending = RETURNED
        return {"attempt": ctx.attempt_index, "pid": os.getpid()}


def work(ctx: Context, job: dict[str, Any], witness: Witness) -> None:
    """Have an effect again and again."""
    for _ in range(job["steps"]):
        time.sleep(STEP_S)
        witness.tell(EFFECT)


def hold(ctx: Context, job: dict[str, Any], witness: Witness) -> None:
    """Hold the interpreter all the time, so that nothing in this process can help."""
    for _ in range(job["steps"]):
        sum(range(3_000_000))
        witness.tell(EFFECT)


def fail_once(ctx: Context, job: dict[str, Any], witness: Witness) -> None:
    """Fail the first time."""
    work(ctx, job, witness)
    if ctx.attempt_index == 0:
        raise ValueError("the first time")


def crash_once(ctx: Context, job: dict[str, Any], witness: Witness) -> None:
    """Take the process down the first time."""
    work(ctx, job, witness)
    if ctx.attempt_index == 0:
        witness.tell(CRASHING)
        os.kill(os.getpid(), (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT)[job["steps"] % 3])


def approval(ctx: Context, job: dict[str, Any], witness: Witness) -> None:
    """Wait for a signal."""
    work(ctx, job, witness)
    if not ctx.signals:
        witness.ending = PAUSED
        raise Suspend("go")


def defer_once(ctx: Context, job: dict[str, Any], witness: Witness) -> None:
    """Come back a little later."""
    work(ctx, job, witness)
    if ctx.attempt_type == "initial":
        witness.ending = PAUSED
        raise Defer(0.3)


def stream(ctx: Context, job: dict[str, Any], witness: Witness) -> None:
    """Emit frames that tell which attempt they are of."""
    for number in range(FRAMES):
        ctx.emit(f"{ctx.attempt_index} {number}")
        ctx.progress(100 * number / FRAMES)
        witness.tell(EFFECT)
        time.sleep(STEP_S / 2)


def helper(ctx: Context, job: dict[str, Any], witness: Witness) -> None:
    """Leave a process behind, which has to go with ours."""
    subprocess.Popen(["tail", "--follow", str(Path(job["folder"]) / "history")], stdout=subprocess.DEVNULL)
    work(ctx, job, witness)


BEHAVIOURS = {
    "work": work,
    "hold": hold,
    "fail once": fail_once,
    "crash once": crash_once,
    "approval": approval,
    "defer once": defer_once,
    "stream": stream,
    "helper": helper,
}
