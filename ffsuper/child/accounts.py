"""The user that children run as, where that is another one than the supervisor's."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from ffsuper.errors import ConfigError

PLACE = "[children] user"
STATUS = Path("/proc/self/status")
# To become another user, and to end the processes of another. Source: capabilities(7), linux/capability.h.
NEEDED = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine.

    Attributes:
        groups: all that it belongs to, the primary one included.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def account_of(name: str) -> Account:
    """Return the user that children are to run as.

    Raises:
        ConfigError: there is no such user, it would be no other than ours or root, or we have not the right.
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError([f'{PLACE}: there is no user "{name}" on this machine']) from None
    if entry.pw_uid == 0:
        raise ConfigError([f"{PLACE}: must not be root: name a user that may do less than the worker"])
    if entry.pw_uid == os.geteuid():
        raise ConfigError([f'{PLACE}: the worker itself runs as "{name}": name another user, or leave it out'])
    if missing := missing_capabilities(STATUS.read_text(encoding="ascii", errors="replace")):
        told = f'this process may not start others as "{name}": it is not root, and has no {", ".join(missing)}'
        raise ConfigError([f"{PLACE}: {told} (AmbientCapabilities= of its unit)"])
    groups = tuple(os.getgrouplist(name, entry.pw_gid))
    return Account(name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def missing_capabilities(status: str) -> list[str]:
    """Return which of the needed capabilities are not effective.

    Args:
        status: as ``/proc/self/status`` has it.
    """
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return [name for name, bit in NEEDED.items() if not effective >> bit & 1]
