"""Child processes as the supervisor sees them: spawned, spoken to, signalled, and seen dead.

A child is known by a pidfd, so a signal can never reach another process that got its number. It counts as dead when
the fork server has reaped it, after killing its process group; what it sent before is still received.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import trio

from ffsuper.child import codec
from ffsuper.errors import ChildError, ForkServerGoneError, HandlersError, RemoteProtocolError
from ffsuper.messages import (
    Death,
    FromChild,
    HandlerSettings,
    Interrupt,
    InterruptReason,
    OutputLine,
    Ready,
    ToChild,
    Unfit,
)
from ffsuper.sansio import crash, frame

READ_BYTES = 1 << 16
CONTROL_BYTES = 4096
# A longer line of output is cut into several.
LINE_BYTES = 2_000
# After a death: for output that is still in the pipes, unless somebody else holds them open.
OUTPUT_S = 0.2
# For a process that hangs to write its stacks, of which so many lines are told: the innermost come first.
STACKS_S = 0.3
STACK_LINES = 6
# A child that is asked to go may take this long.
LEAVE_S = 1.0
SERVER_LEAVE_S = 2.0
ORPHAN_POLL_S = 0.01
FORK_SERVER = (sys.executable, "-m", "ffsuper.child.forkserver")
INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")
INHERITED_PREFIXES = ("LC_", "PYTHON")

OnOutput = Callable[["Child", str, str], None]


@dataclass(frozen=True, slots=True)
class ForkServerSettings:
    """What children are made with.

    Attributes:
        handlers: modules that register the handlers.
        python_path: folders put before ``sys.path``.
        preload: import them once in the fork server.
        boot_timeout_s: a child that is not ready by then is killed.
        environment: variables besides PATH, HOME, LANG, LC_*, TZ, TMPDIR and PYTHON*.
        owner: the worker instance, by which its children are found when the supervisor has been killed.
    """

    handlers: tuple[str, ...]
    python_path: tuple[Path, ...] = ()
    preload: bool = True
    boot_timeout_s: float = 30.0
    environment: Mapping[str, str] | None = None
    owner: str = ""

    @property
    def mark(self) -> str:
        """What stands in the command line of the fork server and of all children."""
        return owner_mark(self.owner, os.getpid())


def owner_mark(owner: str, supervisor_pid: int) -> str:
    """Return what the processes of a supervisor are known by."""
    return f"{owner}/{supervisor_pid}"


@asynccontextmanager
async def open_fork_server(settings: ForkServerSettings, on_output: OnOutput) -> AsyncIterator[ForkServer]:
    """Run a fork server while the block lasts; afterwards no child is left.

    Args:
        on_output: called with the child, ``stdout`` or ``stderr``, and a line, for all that children print.

    Raises:
        ChildError: it does not start.
    """
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as unless_started:
            unless_started.enter_context(ours)
            process = start_fork_server(settings, theirs)
            unless_started.pop_all()
    except OSError as error:
        raise ChildError(f"the fork server does not start: {error}") from None
    with ours:
        server = ForkServer(ours, process, settings.boot_timeout_s, on_output)
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


def start_fork_server(settings: ForkServerSettings, control: socket.socket) -> subprocess.Popen[bytes]:
    """Start the fork server's process; in the main thread, for its death signal is tied to the thread."""
    loads = {
        "modules": list(settings.handlers),
        "python_path": [str(folder) for folder in settings.python_path],
        "preload": settings.preload,
    }
    with control:
        return subprocess.Popen(
            [*FORK_SERVER, str(control.fileno()), json.dumps(loads), settings.mark],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if has_descriptor(sys.stderr) else subprocess.DEVNULL,
            pass_fds=[control.fileno()],
            env=child_environment(settings.environment or {}),
            start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor alone
        )


def kill_orphans(owner: str, supervisor_pid: int, timeout_s: float) -> bool:
    """Kill what a dead supervisor's fork server and children have left, should they not be dead yet. Blocks.

    Returns:
        whether they are all dead.
    """
    mark, own = owner_mark(owner, supervisor_pid), set(psutil.Process().children(recursive=True))
    orphans = [process for process in psutil.process_iter() if process not in own and has_mark(process, mark)]
    for orphan in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    give_up_s = time.monotonic() + timeout_s
    while any(map(is_running, orphans)):
        if time.monotonic() > give_up_s:
            return False
        time.sleep(ORPHAN_POLL_S)
    return True


def is_running(process: psutil.Process) -> bool:
    """Tell whether a process runs; a dead one that nobody has reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def has_mark(process: psutil.Process, mark: str) -> bool:
    """Tell whether a process is a fork server with this mark, or a child of it."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return command[1:3] == list(FORK_SERVER[1:]) and command[-1] == mark


def has_descriptor(stream: object) -> bool:
    """Tell whether a stream can be inherited."""
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True


def child_environment(added: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of all children: what programs need, what was configured, and nothing secret."""
    inherited = {
        name: value for name, value in os.environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
    return inherited | dict(added)


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


class ForkServer:
    """The supervisor's side of the fork server."""

    nursery: trio.Nursery

    def __init__(
        self, control: socket.socket, process: subprocess.Popen[bytes], boot_timeout_s: float, on_output: OnOutput
    ) -> None:
        control.setblocking(False)
        self._control = control
        self._process = process
        self._boot_timeout_s = boot_timeout_s
        self._on_output = on_output
        self._spawned = 0
        self._births: dict[int, trio.MemorySendChannel[int]] = {}
        self._children: dict[int, Child] = {}
        self._ended = False
        self._how = "has ended"
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
            self._spawned += 1
            number = self._spawned
            # One message: the birth is told without waiting.
            birth_send, birth = trio.open_memory_channel[int](1)
            self._births[number] = birth_send
            passed = [messages_theirs.fileno(), stdout.theirs, stderr.theirs, death.theirs]
            await self._ask({"spawn": number}, passed)
            theirs.close()
            try:
                pid = await birth.receive()
            except trio.EndOfChannel:
                raise self._gone() from None
            child = Child(pid, messages, death.ours)
            ours.pop_all()
        self._children[pid] = child
        child.outputs_left = 2
        for name, pipe in (("stdout", stdout), ("stderr", stderr)):
            self.attend(child.read_output, name, pipe.ours, self._on_output)
        return child

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
            f"the fork server, which imports the handlers, {self._how}; what it printed is in the log"
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
            self._note(json.loads(report))
        self._how = await end_of(self._process)
        # Its children die with it, by their death signal; nobody is left to say how.
        self._ended = True
        for birth in self._births.values():
            birth.close()
        for child in list(self._children.values()):
            await child.note_death(exit_code=None, by_signal=signal.SIGKILL, peak_memory_bytes=0)

    def _note(self, report: Mapping[str, int]) -> None:
        if "spawned" in report:
            self._births.pop(report["spawned"]).send_nowait(report["pid"])
            return
        child = self._children.pop(report["died"], None)
        if child is not None:
            code = os.waitstatus_to_exitcode(report["status"])
            self.attend(
                child.note_death,
                code if code >= 0 else None,
                -code if code < 0 else None,
                report["peak_memory_kib"] * 1024,
            )


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


class Child:
    """One child process.

    Attributes:
        handlers: what its modules have registered, by execution kind.
        running: what the log says of the one execution that runs in it; empty when none does, or many may.
    """

    def __init__(self, pid: int, messages: socket.socket, death_pipe: int) -> None:
        self.pid = pid
        self.handlers: Mapping[str, HandlerSettings] = {}
        self.running: Mapping[str, object] = {}
        self.outputs_left = 0
        messages.setblocking(False)
        self._plain_socket = messages
        self._sending = trio.Lock()
        self._interrupts: deque[bytes] = deque()
        self._interrupts_sent = False
        self._messages = trio.socket.from_stdlib_socket(messages)
        self._decoder = frame.Decoder()
        self._death_pipe: int | None = death_pipe
        try:
            self._pidfd: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = None  # dead and reaped already; the report is on its way
        self._death: Death | None = None
        self._dead = trio.Event()
        self._outputs_read = trio.Event()
        self._output = crash.Output()
        self._pipes: list[OutputPipe] = []

    async def boot(self) -> None:
        """Wait until the child is ready.

        Raises:
            HandlersError: the handlers do not load.
            ChildError: it died instead.
        """
        try:
            message = await self.receive()
        except RemoteProtocolError as error:
            raise ChildError(f"child {self.pid} spoke nonsense while starting: {error}") from None
        match message:
            case Ready(handlers):
                self.handlers = {one.execution_kind: one for one in handlers}
            case Unfit(reason, traceback):
                raise HandlersError(f"{reason}\n{traceback}".strip())
            case None:
                death = await self.wait_dead()
                how = f"signal {death.signal}" if death.signal is not None else f"exit code {death.exit_code}"
                lines = [line.text for line in (*death.last_output, *death.stack_dump)]
                raise ChildError("\n".join([f"child {self.pid} died while starting, {how}", *lines]))
            case _:
                raise ChildError(f"child {self.pid} sent {type(message).__name__} before it was ready")

    @property
    def is_dead(self) -> bool:
        """Whether its death is confirmed."""
        return self._dead.is_set()

    async def send(self, message: ToChild) -> None:
        """Send a message; one that cannot arrive any more is dropped, for the death is the news then."""
        data = memoryview(frame.encode(codec.to_frame(message)))
        async with self._sending:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
                while data or self._interrupts:
                    if not data:
                        data, self._interrupts_sent = memoryview(self._interrupts.popleft()), True
                    data = data[await self._messages.send(data) :]
            if self._interrupts_sent:
                self._interrupts_sent = False
                self._signal(signal.SIGURG)

    async def receive(self) -> FromChild | None:
        """Return what the child says next; None when it has said its last.

        Raises:
            RemoteProtocolError: what it says is no message. The child can only be killed.
        """
        while (received := self._decoder.next_frame()) is None:
            try:
                data = await self._messages.recv(READ_BYTES)
            except ConnectionResetError:
                data = b""
            if not data:
                self._decoder.end()
                return None
            self._decoder.feed(data)
        return codec.from_child(received)

    async def announce(self, message: ToChild) -> None:
        """Send a message, and have the child read it even while a handler runs."""
        await self.send(message)
        self._signal(signal.SIGURG)

    def interrupt(self, task: int, reason: InterruptReason) -> None:
        """Raise inside the running handler, if it lets itself be interrupted. Never waits."""
        data = frame.encode(codec.to_frame(Interrupt(task, reason)))
        if self._sending.locked():
            self._interrupts.append(data)  # not into the middle of a message
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._plain_socket.send(data)
            self._signal(signal.SIGURG)

    def memory_bytes(self) -> int:
        """Return the resident memory of the child and its descendants; 0 when it is gone."""
        total = 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += one.memory_info().rss
        return total

    def note_running(self, running: Mapping[str, object]) -> None:
        """Note what runs in it from now on; what it has printed before is about what ran before. Never waits."""
        for pipe in self._pipes:
            pipe.read_now()
        self.running = running

    def dump_stacks(self) -> None:
        """Have all threads' stacks written to the child's stderr; works whatever the interpreter is doing."""
        self._signal(signal.SIGQUIT)

    def last_stacks(self) -> list[str]:
        """Return the beginning of its last stack dump, once it is dead, without the machinery of imports."""
        dump = self._death.stack_dump if self._death else ()
        return [line.text for line in dump if "<frozen importlib" not in line.text][:STACK_LINES]

    def kill(self) -> None:
        """Kill the child; its death is confirmed later."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait_dead(self) -> Death:
        """Return how the child ended, once it is reaped."""
        await self._dead.wait()
        assert self._death is not None
        return self._death

    async def aclose(self) -> None:
        """Let the child go: it leaves by itself when nothing more will come, or is killed."""
        with contextlib.suppress(OSError):
            self._plain_socket.shutdown(socket.SHUT_WR)
        try:
            with trio.move_on_after(LEAVE_S):
                await self.wait_dead()
            self.kill()
            await self.wait_dead()
        finally:
            self.forget()

    def forget(self) -> None:
        """Close what is open; nobody listens any more."""
        self._messages.close()
        self._close_handles()

    def _close_handles(self) -> None:
        if self._death_pipe is not None:
            os.close(self._death_pipe)
            self._death_pipe = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    async def note_death(self, exit_code: int | None, by_signal: int | None, peak_memory_bytes: int) -> None:
        """Take the report of the fork server, once the child's last output is read."""
        if self._death is not None:
            return
        with trio.move_on_after(OUTPUT_S):
            await self._outputs_read.wait()
        printed = self._output
        self._death = Death(self.pid, exit_code, by_signal, peak_memory_bytes, tuple(printed.lines), printed.dump)
        self._dead.set()
        # Descendants may hold the other end: say the end ourselves. What is in the buffer is still received.
        with contextlib.suppress(OSError):
            self._plain_socket.shutdown(socket.SHUT_RDWR)
        self._close_handles()

    async def read_output(self, name: str, descriptor: int, on_output: OnOutput) -> None:
        """Read a pipe to its end, line by line."""
        pipe = OutputPipe(descriptor, lambda line: self._keep(name, line, on_output))
        self._pipes.append(pipe)
        await pipe.read()
        self._pipes.remove(pipe)
        self.outputs_left -= 1
        if not self.outputs_left:
            self._outputs_read.set()

    def _keep(self, name: str, line: bytes, on_output: OnOutput) -> None:
        text = line[:LINE_BYTES].decode(errors="replace")
        self._output.add(OutputLine(name, int(time.time() * 1000), text))
        on_output(self, name, text)


class OutputPipe:
    """What a child prints, line by line.

    Args:
        keep: called with each line.
    """

    def __init__(self, descriptor: int, keep: Callable[[bytes], None]) -> None:
        self._stream = trio.lowlevel.FdStream(descriptor)
        self._keep = keep
        self._rest = b""

    async def read(self) -> None:
        """Read to the end."""
        async with self._stream:
            async for data in self._stream:
                self._take(bytes(data))
        self._take_rest()

    def read_now(self) -> None:
        """Read what is there, while ``read`` waits for more; a line that has no end yet ends here."""
        with contextlib.suppress(OSError):  # nothing is there, or it is closed
            self._take(os.read(self._stream.fileno(), READ_BYTES))
        self._take_rest()

    def _take(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > LINE_BYTES:
            lines.append(rest[:LINE_BYTES])
            rest = rest[LINE_BYTES:]
        self._rest = rest
        for line in lines:
            self._keep(line)

    def _take_rest(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._keep(rest)
