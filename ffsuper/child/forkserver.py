"""The template that children are forked from: ``python -m ffsuper.child.forkserver CONTROL_FD SETTINGS MARK``.

It imports the handlers once, so that a child is ready in milliseconds and shares their pages, and then only forks,
reaps and reports. One thread, the standard library and the handlers.

    supervisor --spawn n, with socket, stdout, stderr, death pipe--> fork server --fork--> child
    supervisor <--spawned n, pid--                                  fork server
    supervisor <--died pid, status, peak memory--                   fork server <--SIGCHLD--
    supervisor --until when a child may live (lifespans.py)-->       fork server --SIGKILL--> child

Who dies with whom: the fork server with the supervisor, because its control socket ends and because of its parent
death signal; a child with the fork server, by its parent death signal; and a child with the supervisor directly,
because its death pipe then ends and the kernel sends SIGKILL for that (``F_SETSIG``), even while user code holds the
interpreter lock. A dead child is left unreaped until its process group has been killed, so that neither its process
id nor its group can belong to anybody else at that moment. The fork server adopts orphaned descendants (it is their
subreaper) and reports a child's death when its descendants are dead too. Each child is the subreaper of its own
descendants, so an orphan that comes to the fork server is always one of a child that has just died, and is killed.
Before the fork server ends, it kills all children and their descendants: nothing outlives a killed supervisor.

What they may do, and what others may do to them, is in ``hardening.py``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import random
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from ffsuper.child import hardening, registry, runtime
from ffsuper.child.lifespans import Lifespans
from ffsuper.clock import boottime_s

MESSAGE_BYTES = 4096
# Killed processes die at once, unless they are stuck in the kernel: then nobody waits for them for ever.
DESCENDANTS_DEATH_S = 0.5
POLL_S = 0.001
DESCRIPTORS = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """What the children load.

    Attributes:
        lifespans: descriptor of the table's memory.
        limits: of each child, see ``hardening.limit``.
    """

    modules: list[str]
    python_path: list[str]
    preload: bool
    lifespans: int
    limits: dict[str, int] = field(default_factory=dict)


def main() -> int:
    """Serve until the control socket ends."""
    hardening.conceal()
    hardening.die_with_parent(signal.SIGTERM)
    hardening.forbid_new_privileges()
    # Should the import of the handlers crash or hang, this shows where.
    faulthandler.enable(runtime.STDERR)
    faulthandler.register(signal.SIGQUIT, runtime.STDERR, all_threads=True, chain=False)
    hardening.adopt_descendants()
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = Settings(**json.loads(sys.argv[2]))
    hardening.limit({hardening.CORE: settings.limits.get(hardening.CORE, 0)})
    hardening.confine()
    if settings.preload:
        preload(settings)
    gc.collect()
    gc.freeze()  # what is loaded now stays: the collector must not touch, and so copy, the shared pages
    with control:
        ForkServer(control, settings).serve()
    return 0


def preload(settings: Settings) -> None:
    """Import the handlers; should that fail, leave it to the children, who report it."""
    if runtime.load_handlers(settings.modules, settings.python_path) is not None:
        registry.HANDLERS.clear()
        for module in settings.modules:
            sys.modules.pop(module, None)
    if threading.active_count() > 1:
        # A process with threads cannot be forked safely. Begin again without the user's modules.
        print("handlers start threads when imported: not preloading them", file=sys.stderr, flush=True)  # noqa: T201
        without = json.dumps(asdict(settings) | {"preload": False})
        again = [sys.executable, "-m", "ffsuper.child.forkserver", sys.argv[1], without, sys.argv[3]]
        os.execv(sys.executable, again)


class ForkServer:
    """Forks on demand and reports deaths."""

    def __init__(self, control: socket.socket, settings: Settings) -> None:
        self._control = control
        self._settings = settings
        self._lifespans = Lifespans(settings.lifespans)
        os.close(settings.lifespans)
        # Process id -> place in the table.
        self._children: dict[int, int] = {}
        self._overdue: set[int] = set()
        self._told_to_end: list[bool] = []
        # Reports that there was no room for, because the supervisor stands still.
        self._untold: deque[bytes] = deque()
        # SIGCHLD writes a byte here, so that the loop wakes up.
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Work until the control socket ends, or until the parent death signal; then leave nobody behind."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, lambda _number, _frame: self._told_to_end.append(True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._serve()
        finally:
            self._end_all()

    def _serve(self) -> None:
        control = self._control.fileno()
        while not self._told_to_end:
            told_later = [control] if self._untold else []
            readable, _, _ = select.select([control, self._wake_read], told_later, [], self._end_overdue())
            self._tell_rest()
            if self._wake_read in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, MESSAGE_BYTES)
            self._report_deaths()
            if control in readable:
                try:
                    request, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, DESCRIPTORS)
                except ConnectionResetError:
                    return  # the supervisor died before it had read all reports
                if not request:
                    return
                wanted = json.loads(request)
                self._spawn(wanted["spawn"], wanted["place"], descriptors)

    def _end_all(self) -> None:
        """Kill the children, if there are any left, and all that they have started; nobody is to be told."""
        self._children.clear()
        self._kill_orphans()

    def _end_overdue(self) -> float:
        """Kill the children that the supervisor should have ended by now; return for how long no other is due."""
        now_s = boottime_s()
        for pid in self._lifespans.overdue(self._children, now_s):
            self._overdue.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        waiting = [place for pid, place in self._children.items() if pid not in self._overdue]
        return self._lifespans.nap_s(waiting, now_s)

    def _spawn(self, number: int, place: int, descriptors: list[int]) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # no more processes can be had just now
            told = {"unborn": number, "error": error.errno or 0}
        else:
            if pid == 0:
                become_child(server, descriptors, self._settings)
            self._children[pid] = place
            told = {"spawned": number, "pid": pid}
        for descriptor in descriptors:
            os.close(descriptor)
        self._tell(told)

    def _report_deaths(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (died := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if died.si_pid in self._children:
                    self._report_death(died.si_pid)
                else:
                    os.waitpid(died.si_pid, 0)  # an orphan that was adopted

    def _report_death(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        del self._children[pid]
        self._kill_orphans()
        was_overdue = pid in self._overdue
        self._overdue.discard(pid)
        self._tell({"died": pid, "status": status, "peak_memory_kib": usage.ru_maxrss, "was_overdue": was_overdue})

    def _kill_orphans(self) -> None:
        """Kill and reap what dead children have left, and what that leaves, for as long as this may take at most."""
        give_up_s = time.monotonic() + DESCENDANTS_DEATH_S
        while orphans := own_children() - self._children.keys():
            for orphan in orphans:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(orphan, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(orphan, os.WNOHANG)
            if time.monotonic() > give_up_s:
                return
            time.sleep(POLL_S)

    def _tell(self, message: dict[str, int]) -> None:
        """Report something, later if need be: nobody's time must run out while we wait for a supervisor."""
        self._untold.append(json.dumps(message).encode())
        self._tell_rest()

    def _tell_rest(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
            while self._untold:
                self._control.send(self._untold[0], socket.MSG_DONTWAIT)
                self._untold.popleft()


def own_children() -> set[int]:
    """Return the process ids of this process's children, the dead ones that are not reaped included."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    return set(map(int, found.split()))


def become_child(server: int, descriptors: list[int], settings: Settings) -> NoReturn:
    """Turn a fresh fork into a child: its own session, its own descriptors, and nothing of the server's."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        hardening.die_with_parent(signal.SIGKILL)
        hardening.adopt_descendants()
        if os.getppid() != server:
            os._exit(code)
        messages, stdout, stderr, death = descriptors
        take_outputs(stdout, stderr)
        close_others(keep={messages, death})
        die_at_end_of(death)
        hardening.limit(settings.limits)
        if settings.limits.get(hardening.CORE):
            hardening.reveal()
        hardening.confine()
        random.seed()
        gc.enable()
        code = runtime.run(socket.socket(fileno=messages), settings.modules, settings.python_path)
    finally:
        runtime.flush_output()
        os._exit(code)


def take_outputs(stdout: int, stderr: int) -> None:
    """Read nothing, and write to the supervisor's pipes."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)


def close_others(keep: set[int]) -> None:
    """Close every descriptor but the standard ones and those to keep."""
    low = 3
    for descriptor in sorted(keep):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def die_at_end_of(death: int) -> None:
    """Have the kernel kill this process when the other end of the pipe is closed."""
    fcntl.fcntl(death, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(death, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(death, fcntl.F_SETFL, fcntl.fcntl(death, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    ended = select.poll()
    ended.register(death, select.POLLHUP)
    if ended.poll(0):
        os._exit(70)  # it was closed before anybody watched


if __name__ == "__main__":
    sys.exit(main())
