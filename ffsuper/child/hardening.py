"""What a process gives up, so that the code of one handler can do little to anybody else.

Before it imports anything of the user's, the fork server conceals itself, forbids new privileges and is confined. Its
children inherit all that; each is then confined once more, against the others, and limited. The supervisor conceals
itself as well. Inside children and the fork server: the standard library only.

A process is *concealed* (not "dumpable") when only root may look into it: its memory, environment and descriptors, by
``/proc``, ptrace or ``pidfd_getfd``, even for processes of its own user. It leaves no core file. A program that it
starts is not concealed, so what such a program has been given can be seen by other processes of that user.

A process is *confined* when it can signal, and look into, only itself and what it has started. This is Landlock's,
of Linux 6.12; where the kernel has no such thing, processes of one user can still kill one another.

Source: PR_SET_DUMPABLE(2const), PR_SET_NO_NEW_PRIVS(2const), landlock(7), getrlimit(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Iterator, Mapping

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_RESTRICT_SELF = 446
LANDLOCK_SCOPE_SIGNAL = 1 << 1

LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20
CORE = "core_mb"
# Key of ``[children]`` to what the kernel calls it, and bytes where it is not a number of things. 0 is no limit, but
# for core files.
LIMITS: Mapping[str, tuple[int, int]] = {
    "open_files": (resource.RLIMIT_NOFILE, 1),
    "processes": (resource.RLIMIT_NPROC, 1),
    "file_mb": (resource.RLIMIT_FSIZE, MIB),
    CORE: (resource.RLIMIT_CORE, MIB),
}


def prctl(option: int, value: int) -> None:
    """Change something about this process.

    Raises:
        OSError: the kernel refuses.
    """
    if LIBC.prctl(option, ctypes.c_ulong(value), *map(ctypes.c_ulong, (0, 0, 0))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent(number: signal.Signals) -> None:
    """Ask the kernel for a signal when the parent dies. A change of the user makes it forget this."""
    prctl(PR_SET_PDEATHSIG, number)


def adopt_descendants() -> None:
    """Become the parent of descendants whose own parent dies."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def conceal() -> None:
    """Let nobody but root look into this process, and leave no core file."""
    prctl(PR_SET_DUMPABLE, 0)


def reveal() -> None:
    """Let processes of the same user look into this one, and the kernel write a core file of it."""
    prctl(PR_SET_DUMPABLE, 1)


def forbid_new_privileges() -> None:
    """Gain nothing from now on by programs that are setuid or have capabilities."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def drop_ambient_capabilities() -> None:
    """Hand none of our capabilities on to programs that we start; ours stay."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def confine() -> None:
    """Signal, and look into, nothing but this process and what it starts; where the kernel can do that."""
    # struct landlock_ruleset_attr: no rules about files and the network, one scope. An older kernel refuses its size.
    wanted = struct.pack("QQQ", 0, 0, LANDLOCK_SCOPE_SIGNAL)
    ruleset = LIBC.syscall(SYS_LANDLOCK_CREATE_RULESET, wanted, ctypes.c_size_t(len(wanted)), 0)
    if ruleset >= 0:
        LIBC.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)


def limit(limits: Mapping[str, int]) -> None:
    """Set limits that this process, and what it starts, cannot raise again.

    Args:
        limits: by the keys of ``LIMITS``.
    """
    for _, number, most in kernel_limits(limits):
        resource.setrlimit(number, (most, most))


def kernel_limits(limits: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    """Yield the limits that are set, as ``(key, number of the resource, value)``."""
    for key, value in limits.items():
        number, unit = LIMITS[key]
        if value or key == CORE:
            yield key, number, value * unit


def too_high(limits: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the limits that are above what this process itself may have, as ``(key, what it may have)``."""
    for key, number, value in kernel_limits(limits):
        most = resource.getrlimit(number)[1]
        if most != resource.RLIM_INFINITY and value > most:
            yield key, most // LIMITS[key][1]
