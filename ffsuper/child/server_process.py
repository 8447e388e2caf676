"""The fork server's process: what it is made with, its start and its end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ffsuper.child import hardening
from ffsuper.child.accounts import Account
from ffsuper.child.orphans import FORK_SERVER, owner_mark
from ffsuper.child.process import LEAVE_S
from ffsuper.errors import ConfigError
from ffsuper.sansio import crash

SERVER_LEAVE_S = 2.0
# What else a child is given stands in the configuration. PYTHON*: it is to find the same modules as we do.
INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")
INHERITED_PREFIXES = ("LC_", "PYTHON")


@dataclass(frozen=True, slots=True)
class ForkServerSettings:
    """What children are made with.

    Attributes:
        handlers: modules that register the handlers.
        python_path: folders put before ``sys.path``.
        preload: import them once in the fork server.
        boot_timeout_s: a child that is not ready by then is killed.
        environment: variables besides PATH, HOME, LANG, LC_*, TZ, TMPDIR and PYTHON*.
        user: whom they run as; empty for the supervisor's own user.
        limits: by the keys of ``hardening.LIMITS``.
        owner: the worker instance, by which its children are found when the supervisor has been killed.
    """

    handlers: tuple[str, ...]
    python_path: tuple[Path, ...] = ()
    preload: bool = True
    boot_timeout_s: float = 30.0
    environment: Mapping[str, str] | None = None
    user: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    owner: str = ""

    @property
    def mark(self) -> str:
        """What stands in the command line of the fork server and of all children."""
        return owner_mark(self.owner, os.getpid())


def check_limits(limits: Mapping[str, int]) -> None:
    """Refuse limits above our own, which nobody could set.

    Raises:
        ConfigError: with all of them.
    """
    told = "is more than the worker itself may have, which is"
    if problems := [f"[children] {key}: {limits[key]} {told} {most}" for key, most in hardening.too_high(limits)]:
        raise ConfigError(problems)


def start_fork_server(
    settings: ForkServerSettings, account: Account | None, control: socket.socket, lifespans: int
) -> subprocess.Popen[bytes]:
    """Start the fork server's process; in the main thread, for its death signal is tied to the thread.

    Args:
        account: whom it runs as, from its first instruction on; None for our own user.
        lifespans: descriptor of the table's memory.
    """
    if account is not None:
        hardening.drop_ambient_capabilities()
    loads = {
        "modules": list(settings.handlers),
        "python_path": [str(folder) for folder in settings.python_path],
        "preload": settings.preload,
        "lifespans": lifespans,
        "limits": dict(settings.limits),
    }
    with control:
        return subprocess.Popen(
            [*FORK_SERVER, str(control.fileno()), json.dumps(loads), settings.mark],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if has_descriptor(sys.stderr) else subprocess.DEVNULL,
            pass_fds=[control.fileno(), lifespans],
            env=child_environment(account, settings.environment or {}),
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else account.groups,
            start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor alone
        )


def has_descriptor(stream: object) -> bool:
    """Tell whether a stream can be inherited."""
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True


def child_environment(account: Account | None, added: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of all children: what programs need, what was configured, and nothing secret."""
    home = {} if account is None else {"HOME": account.home}
    inherited = {
        name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    return inherited | home | dict(added)


async def end_of(process: subprocess.Popen[bytes]) -> str:
    """Say how a process ended that has just closed its connection."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        await trio.to_thread.run_sync(process.wait, LEAVE_S)
    if process.returncode is None:
        return "has closed its connection"
    code = process.returncode
    return f"exited with code {code}" if code >= 0 else f"was killed by {crash.signal_name(-code)}"


def end_fork_server(process: subprocess.Popen[bytes]) -> None:
    """Wait until the fork server has seen its control socket end; kill it if it does not."""
    try:
        process.wait(SERVER_LEAVE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
