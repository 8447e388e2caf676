"""The fork server as the supervisor sees it: started, asked for children, and heard when they are born and die."""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil
import trio

from ffsuper.child.accounts import PLACE, Account, account_of
from ffsuper.child.lifespans import Lifespan, Lifespans, open_memory
from ffsuper.child.orphans import kill_sessions
from ffsuper.child.process import LEAVE_S, Child, OnOutput
from ffsuper.child.server_process import (
    ForkServerSettings,
    check_limits,
    end_fork_server,
    end_of,
    start_fork_server,
)
from ffsuper.errors import ChildError, ConfigError, ForkServerGoneError

LOG = logging.getLogger(__name__)

CONTROL_BYTES = 4096
LARGEST_PID = 1 << 22
# For a process that hangs to write its stacks.
STACKS_S = 0.3
# Within this time the fork server tells of a death, however busy the machine is.
REPORT_S = 10.0
# The way to a pipe leads through a process that has it, and so only those get there who may look into that.
OPEN_TO_WRITE = 0o622


@asynccontextmanager
async def open_fork_server(settings: ForkServerSettings, on_output: OnOutput) -> AsyncIterator[ForkServer]:
    """Run a fork server while the block lasts; afterwards no child is left.

    Args:
        on_output: called with the child, ``stdout`` or ``stderr``, and a line, for all that children print.

    Raises:
        ConfigError: the children cannot have their user or their limits here.
        ChildError: it does not start.
    """
    check_limits(settings.limits)
    account = account_of(settings.user) if settings.user else None
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as unless_started:
            unless_started.enter_context(ours)
            memory = open_memory()
            with contextlib.closing(os.fdopen(memory, "rb")):
                lifespans = Lifespans(memory)
                process = start_fork_server(settings, account, theirs, memory)
            unless_started.pop_all()
    except PermissionError as error:
        if account is None:
            raise ChildError(f"the fork server does not start: {error}") from None
        told = f'"{account.name}" may not run {error.filename}: it needs Python and all modules of the handlers'
        raise ConfigError([f"{PLACE}: {told}"]) from None
    except OSError as error:
        raise ChildError(f"the fork server does not start: {error}") from None
    with ours:
        server = ForkServer(ours, process, lifespans, account, settings.boot_timeout_s, on_output)
        try:
            async with trio.open_nursery() as nursery:
                server.nursery = nursery
                server.attend(server.hear)
                try:
                    yield server
                finally:
                    server.leave()
        finally:
            ours.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(end_fork_server, process)
            server.forget_children()


class ForkServer:
    """The supervisor's side of the fork server."""

    nursery: trio.Nursery

    def __init__(
        self,
        control: socket.socket,
        process: subprocess.Popen[bytes],
        lifespans: Lifespans,
        account: Account | None,
        boot_timeout_s: float,
        on_output: OnOutput,
    ) -> None:
        control.setblocking(False)
        self._control = control
        self._process = process
        self._lifespans = lifespans
        self._account = account
        self._boot_timeout_s = boot_timeout_s
        self._on_output = on_output
        self._spawned = 0
        self._births: dict[int, trio.MemorySendChannel[int | OSError]] = {}
        # Of the unborn by number, then by process id.
        self._lifespans_to_be: dict[int, Lifespan] = {}
        self._lifespans_of: dict[int, Lifespan] = {}
        self._children: dict[int, Child] = {}
        self._ended = False
        self._how = "has ended"
        self._untrue = ""
        self._left = False
        self._attending: list[trio.CancelScope] = []

    async def spawn(self) -> Child:
        """Return a child that has loaded the handlers and waits for work.

        Raises:
            HandlersError: the handlers do not load.
            ChildError: the child died or was not ready in time, or the fork server is gone.
        """
        child: Child | None = None
        try:
            with trio.fail_after(self._boot_timeout_s):
                child = await self._fork()
                await child.boot()
        except BaseException as error:
            if isinstance(error, trio.TooSlowError):
                await self._show_stacks(child)
            if child is not None:
                child.kill()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_S):
                    await child.aclose()
            if isinstance(error, trio.TooSlowError):
                who = "the fork server, which imports the handlers," if child is None else f"child {child.pid}"
                told = f"{who} was not ready within {self._boot_timeout_s:g} s ([children] boot_timeout_s)"
                where = ["where it hung is in the log"] if child is None else child.last_stacks()
                raise ChildError("\n".join([told, *where])) from None
            if isinstance(error, OSError):
                raise ChildError(f"no child can be made: {error}") from None
            raise
        return child

    async def _fork(self) -> Child:
        """Ask for a child and wait for its process id."""
        if self._ended:
            raise self._gone()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            messages, messages_theirs = map(ours.enter_context, socket.socketpair())
            theirs.enter_context(messages_theirs)
            stdout, stderr, death = (pipe_for_child(ours, theirs, ours_reads=reads) for reads in (True, True, False))
            if self._account is not None:  # so that another user may open /dev/stdout, which leads here
                os.fchmod(stdout.theirs, OPEN_TO_WRITE)
                os.fchmod(stderr.theirs, OPEN_TO_WRITE)
            self._spawned += 1
            number = self._spawned
            # One message: the birth is told without waiting.
            birth_send, birth = trio.open_memory_channel[int | OSError](1)
            self._births[number] = birth_send
            lifespan = self._lifespans_to_be[number] = self._lifespans.open()
            passed = [messages_theirs.fileno(), stdout.theirs, stderr.theirs, death.theirs]
            await self._ask({"spawn": number, "place": lifespan.place}, passed)
            theirs.close()
            try:
                born = await birth.receive()
            except trio.EndOfChannel:
                raise self._gone() from None
            if isinstance(born, OSError):
                raise born
            child = Child(born, messages, death.ours, lifespan)
            ours.pop_all()
        if not may_be_child(born, self._process.pid):
            child.forget()
            for pipe in (stdout, stderr):
                os.close(pipe.ours)
            self._disown(f"has told of a child, {born}, that is not its own")
            raise self._gone()
        self._children[child.pid] = child
        child.outputs_left = 2
        for name, pipe in (("stdout", stdout), ("stderr", stderr)):
            self.attend(child.read_output, name, pipe.ours, self._on_output)
        self.attend(self._expect_report, child)
        return child

    async def _expect_report(self, child: Child) -> None:
        """Kill a fork server that hangs: it tells of no death, and nobody would ever go on after one."""
        if await child.wait_ended():
            with trio.move_on_after(REPORT_S):
                await child.wait_dead()
                return
            LOG.error("fork server hangs", extra={"child": child.pid})
            self._process.kill()

    async def _show_stacks(self, child: Child | None) -> None:
        """Have what hangs write its stacks to stderr; without a child it is the fork server itself."""
        if child is None:
            self._process.send_signal(signal.SIGQUIT)
            return
        child.dump_stacks()
        with trio.move_on_after(STACKS_S, shield=True):
            await child.wait_dead()

    def _gone(self) -> ForkServerGoneError:
        return ForkServerGoneError(
            f"the fork server, which imports the handlers, {self._untrue or self._how}; what it printed is in the log"
        )

    def attend(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a task in the background until ``leave``, though all around is cancelled: it confirms deaths."""
        self.nursery.start_soon(self._attended, task, *args)

    async def _attended(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        with trio.CancelScope(shield=True) as scope:
            self._attending.append(scope)
            if self._left:
                scope.cancel()
            await task(*args)
        self._attending.remove(scope)

    def leave(self) -> None:
        """End the tasks in the background."""
        self._left = True
        for scope in self._attending:
            scope.cancel()

    async def _ask(self, request: Mapping[str, int], descriptors: list[int]) -> None:
        data = json.dumps(request).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        while True:
            try:
                self._control.sendmsg([data], rights)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._control)
            except (BrokenPipeError, ConnectionResetError):
                raise self._gone() from None
            else:
                return

    def forget_children(self) -> None:
        """Let go of what children are left: they are dead, or dying with the fork server."""
        for child in self._children.values():
            child.forget()

    async def hear(self) -> None:
        """Take the fork server's reports until it ends."""
        while True:
            await trio.lowlevel.wait_readable(self._control)
            try:
                report = self._control.recv(CONTROL_BYTES)
            except ConnectionResetError:
                report = b""
            if not report:
                break
            try:
                self._note(read_report(report))
            except (LookupError, ValueError, OverflowError, RecursionError):
                self._disown("has spoken nonsense")
                break
        self._how = await end_of(self._process)
        # Its children die with it, by their death signal; nobody is left to say how, or to end what they began.
        self._ended = True
        # We may hear of it late, having stood still ourselves: by then a number can be another process's.
        leaders = {pid for pid, child in self._children.items() if not child.has_lost_its_number}
        await trio.to_thread.run_sync(kill_sessions, leaders)
        for birth in self._births.values():
            birth.close()
        for child in list(self._children.values()):
            await child.note_death(exit_code=None, by_signal=signal.SIGKILL, peak_memory_bytes=0, was_overdue=False)

    def _disown(self, why: str) -> None:
        """Kill the fork server: the modules of handlers are imported there, and one of them may speak in its name."""
        self._untrue = f"{why}, and was killed"
        self._process.kill()

    def _note(self, report: Mapping[str, int]) -> None:
        if "unborn" in report:
            self._lifespans_to_be.pop(report["unborn"]).close()
            birth = self._births.pop(report["unborn"])
            birth.send_nowait(OSError(report["error"], os.strerror(report["error"])))
            return
        if "spawned" in report:
            self._lifespans_of[report["pid"]] = self._lifespans_to_be.pop(report["spawned"])
            self._births.pop(report["spawned"]).send_nowait(report["pid"])
            return
        self._lifespans_of.pop(report["died"]).close()
        child = self._children.pop(report["died"], None)
        if child is not None:
            code = os.waitstatus_to_exitcode(report["status"])
            self.attend(
                child.note_death,
                code if code >= 0 else None,
                -code if code < 0 else None,
                report["peak_memory_kib"] * 1024,
                bool(report["was_overdue"]),
            )


def read_report(report: bytes) -> dict[str, int]:
    """Read what the fork server says.

    Raises:
        ValueError: it is no report.
    """
    read = json.loads(report)
    if not isinstance(read, dict) or not all(isinstance(value, int) for value in read.values()):
        raise ValueError
    if not 0 < read.get("pid", 1) <= LARGEST_PID:
        raise ValueError
    return read


def may_be_child(pid: int, parent: int) -> bool:
    """Tell whether a process, whose pidfd is open, is a child of another, or gone. Nobody else's may be killed."""
    try:
        return psutil.Process(pid).ppid() == parent
    except psutil.NoSuchProcess:
        return True


@dataclass(frozen=True, slots=True)
class Pipe:
    """The two ends of a pipe."""

    ours: int
    theirs: int


def pipe_for_child(ours: contextlib.ExitStack, theirs: contextlib.ExitStack, *, ours_reads: bool) -> Pipe:
    """Make a pipe whose ends are closed here when ``ours`` and ``theirs`` are left."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pipe = Pipe(read, write) if ours_reads else Pipe(write, read)
    ours.callback(os.close, pipe.ours)
    theirs.callback(os.close, pipe.theirs)
    return pipe
