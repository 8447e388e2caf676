"""Runs Python as somebody else: ``python -m tests.system.other_user USER CAPABILITIES ARGUMENTS``.

``USER`` may be root, for a worker that starts its children as another user. Either way that user has to reach Python
itself, which may be in somebody's home: then there is a way to it, in a view of the file system that only this
process and what it starts have. ``CAPABILITIES`` is what the user is given, as ``kill,setuid``, or nothing.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import sys
from pathlib import Path

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source: str, target: Path, kind: str, flags: int = 0, data: str = "") -> None:
    texts = (source, str(target), kind)
    checked(LIBC.mount(*map(str.encode, texts), ctypes.c_ulong(flags), data.encode()))


def open_to_all(folder: Path) -> None:
    """Let everybody reach a folder, whatever the rights of those above it."""
    closed = [above for above in reversed(folder.parents) if not above.stat().st_mode & stat.S_IXOTH]
    if not closed:
        return
    checked(LIBC.unshare(CLONE_NEWNS))
    mount("none", Path("/"), "none", MS_REC | MS_PRIVATE)
    there = os.open(folder, os.O_PATH)
    mount("tmpfs", closed[0], "tmpfs", data="mode=755")
    folder.mkdir(parents=True)
    mount(f"/proc/self/fd/{there}", folder, "none", MS_BIND | MS_REC)
    os.close(there)


def main() -> None:
    user, capabilities, *arguments = sys.argv[1:]
    for prefix in {sys.base_prefix, sys.prefix}:
        open_to_all(Path(prefix).resolve())
    command = [sys.executable, *arguments]
    if user != "root":
        names = ",".join(f"+{name}" for name in capabilities.split(",")) if capabilities else "-all"
        given = [f"--inh-caps={names}", f"--ambient-caps={names}"]
        account = pwd.getpwnam(user)
        who = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
        command = ["setpriv", *who, *given, "--", *command]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
