"""Handlers that look at what they were given, and try what they must not."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffsuper import Context, handler
from tests.child.descriptors import own_descriptors

PTRACE_SEIZE = 0x4206
SYS_PIDFD_GETFD = 438
LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def status_of(text: str) -> dict[str, str]:
    """Return the lines of /proc/PID/status by name."""
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def outcome(attempt: Callable[[], object]) -> str:
    """Try something; tell how that went."""
    try:
        attempt()
    except (OSError, ValueError) as error:
        return type(error).__name__
    return "done"


IN_FORK_SERVER = outcome(lambda: os.kill(os.getppid(), 0))


@handler("imported")
def imported(ctx: Context) -> str:
    """Tell whether the import of this very module could signal the worker."""
    return IN_FORK_SERVER


@handler("own-status")
def own_status(ctx: Context) -> dict[str, dict[str, str]]:
    """Tell what the kernel says of this process and of one that it starts."""
    cat = subprocess.run(["cat", "/proc/self/status"], capture_output=True, check=True, text=True)
    return {"child": status_of(Path("/proc/self/status").read_text()), "grandchild": status_of(cat.stdout)}


@handler("own-things")
def own_things(ctx: Context) -> dict[str, Any]:
    """Tell which environment and descriptors there are."""
    return {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "descriptors": own_descriptors(),
        "input": os.read(0, 1).decode(),
    }


@handler("own-limits")
def own_limits(ctx: Context) -> dict[str, list[int]]:
    names = ("NOFILE", "NPROC", "FSIZE", "CORE")
    return {name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))) for name in names}


@handler("raise-limit")
def raise_limit(ctx: Context) -> str:
    return outcome(lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)))


@handler("look-into")
def look_into(ctx: Context, pid: int) -> dict[str, str]:
    """Try to learn what another process has, in all ways that there are."""

    def take_descriptor() -> None:
        pidfd = os.pidfd_open(pid)
        try:
            checked(LIBC.syscall(SYS_PIDFD_GETFD, pidfd, 0, 0))
        finally:
            os.close(pidfd)

    def read_memory() -> None:
        with Path(f"/proc/{pid}/mem").open("rb"):
            pass

    attempts: dict[str, Callable[[], object]] = {
        "environment": lambda: Path(f"/proc/{pid}/environ").read_bytes(),
        "descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),
        "a descriptor": lambda: os.readlink(f"/proc/{pid}/fd/0"),
        "memory": read_memory,
        "maps": lambda: Path(f"/proc/{pid}/maps").read_bytes(),
        "ptrace": lambda: checked(LIBC.ptrace(PTRACE_SEIZE, pid, 0, 0)),
        "take a descriptor": take_descriptor,
    }
    return {name: outcome(attempt) for name, attempt in attempts.items()}


@handler("kill")
def kill(ctx: Context, pid: int) -> str:
    return outcome(lambda: os.kill(pid, signal.SIGKILL))


@handler("end-own-program")
def end_own_program(ctx: Context) -> int:
    """End a program that was started here."""
    program = subprocess.Popen(["sleep", "3600"])
    program.kill()
    return program.wait()


@handler("connect")
def connect(ctx: Context, path: str) -> str:
    with socket.socket(socket.AF_UNIX) as there:
        return outcome(lambda: there.connect(path))


@handler("say")
def say(ctx: Context, word: str) -> None:
    """Print in the way of shell scripts."""
    subprocess.run(["sh", "-c", f"echo {word} > /dev/stdout; echo {word} > /dev/stderr"], check=True)


@handler("bomb")
def bomb(ctx: Context, folder: str) -> int:
    """Start processes until no more can be had, and keep them."""
    for number in range(10_000):
        try:
            pid = os.fork()
        except OSError:
            Path(folder, "exploded").write_text(str(number))
            while not Path(folder, "go").exists():
                time.sleep(0.005)
            return number
        if pid == 0:
            time.sleep(3600)
            os._exit(0)
    return -1


@handler("write")
def write(ctx: Context, job: dict[str, Any]) -> str:
    """Make a file of so many bytes."""
    return outcome(lambda: Path(job["path"]).write_bytes(bytes(job["bytes"])))


@handler("open-files")
def open_files(ctx: Context) -> int:
    opened = []
    try:
        while True:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return len(opened)
    finally:
        for descriptor in opened:
            os.close(descriptor)


@handler("abort")
def abort(ctx: Context, folder: str) -> None:
    os.chdir(folder)
    os.abort()


@handler("abort-program")
def abort_program(ctx: Context, folder: str) -> int:
    return subprocess.run(["sh", "-c", "kill -ABRT $$"], cwd=folder, check=False).returncode


@handler("wait", timeout_s=600.0)
def wait(ctx: Context, folder: str) -> None:
    """Say that it has begun, and do not end."""
    Path(folder, "begun").write_text(str(os.getpid()))
    time.sleep(3600)


@handler("start-daemon", timeout_s=600.0)
def start_daemon(ctx: Context, folder: str) -> None:
    """Have a program run in a session of its own, and wait beside it."""
    program = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    Path(folder, "begun").write_text(str(program.pid))
    time.sleep(3600)


@handler("hang", timeout_s=0.1)
def hang(ctx: Context) -> None:
    signal.signal(signal.SIGURG, signal.SIG_IGN)
    while True:
        time.sleep(3600)


@handler("grow")
def grow(ctx: Context) -> None:
    """Have a program take 300 MB."""
    subprocess.run([sys.executable, "-c", "import time; x = b'x' * (300 << 20); time.sleep(3600)"], check=False)
