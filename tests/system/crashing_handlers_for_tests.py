"""Handlers that end with their child."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

from ffsuper import Context, SoftTimeout, handler


@handler("say")
def say(ctx: Context, text: str) -> int:
    print(text)
    return os.getpid()


@handler("segfault")
def segfault(ctx: Context) -> None:
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    ctypes.string_at(0)


@handler("exit")
def leave(ctx: Context) -> None:
    print("\x1b[31mleaving", flush=True)
    os._exit(3)


@handler("chatter")
def chatter(ctx: Context) -> None:
    for number in range(10_000):
        print(f"line {number} {'x' * 500}")
    sys.stdout.flush()
    os._exit(4)


@handler("endless", timeout_s=0.2)
def endless(ctx: Context) -> None:
    """Run on whatever happens, beside some idle threads."""
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    while True:
        try:
            never_ending_work()
        except SoftTimeout:
            continue


def never_ending_work() -> None:
    time.sleep(3600)


@handler("silent", progress_timeout_s=0.2)
def silent(ctx: Context) -> None:
    endless(ctx)


@handler("wait")
def wait(ctx: Context) -> None:
    ctx.progress(1, str(os.getpid()))
    time.sleep(3600)


@handler("grow")
def grow(ctx: Context) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(b"x") * (8 << 20))
        time.sleep(0.01)


@handler("babble")
def babble(ctx: Context) -> None:
    """Write to the supervisor's socket what is no message."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), b"\xff" * 8)
        except FileNotFoundError:
            continue
    time.sleep(3600)
