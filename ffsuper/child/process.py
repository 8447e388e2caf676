"""A child process as the supervisor sees it: spoken to, signalled, and seen dead.

A child is known by a pidfd, so a signal can never reach another process that got its number. It counts as dead when
the fork server has reaped it, after killing its process group; what it sent before is still received.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import trio

from ffsuper.child import codec
from ffsuper.child.lifespans import Lifespan
from ffsuper.errors import ChildError, HandlersError, RemoteProtocolError
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
# A longer line of output is cut into several.
LINE_BYTES = 2_000
# After a death: for output that is still in the pipes, unless somebody else holds them open.
OUTPUT_S = 0.2
# Of a stack dump, so many lines are told: the innermost come first.
STACK_LINES = 6
# A child that is asked to go may take this long.
LEAVE_S = 1.0

OnOutput = Callable[["Child", str, str], None]


class Child:
    """One child process.

    Attributes:
        handlers: what its modules have registered, by execution kind.
        running: what the log says of the one execution that runs in it; empty when none does, or many may.
        lifespan: until when the fork server lets it live, should nobody else have killed it by then.
    """

    def __init__(self, pid: int, messages: socket.socket, death_pipe: int, lifespan: Lifespan) -> None:
        self.pid = pid
        self.lifespan = lifespan
        self.handlers: Mapping[str, HandlerSettings] = {}
        self.running: Mapping[str, object] = {}
        self.outputs_left = 0
        messages.setblocking(False)
        self._socket = messages
        self._sending = trio.Lock()
        self._interrupts: deque[bytes] = deque()
        self._interrupts_sent = False
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
        self._printed = select.poll()

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

    @property
    def has_lost_its_number(self) -> bool:
        """Whether it is dead and its process id has become another process's since."""
        if self._pidfd is None:
            return False
        about = Path(f"/proc/self/fdinfo/{self._pidfd}").read_text(encoding="ascii")
        return "\nPid:\t-1\n" in about and psutil.pid_exists(self.pid)

    async def send(self, message: ToChild) -> None:
        """Send a message; one that cannot arrive any more is dropped, for the death is the news then.

        Raises:
            LocalProtocolError: it is too large; nothing was sent.
        """
        data = memoryview(frame.encode(codec.to_frame(message)))
        if self._sending.locked():
            await self._sending.acquire()
        else:
            self._sending.acquire_nowait()
        try:
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                while data or self._interrupts:
                    if not data:
                        data, self._interrupts_sent = memoryview(self._interrupts.popleft()), True
                    try:
                        data = data[self._socket.send(data) :]
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._socket)
        finally:
            self._sending.release()
        if self._interrupts_sent:
            self._interrupts_sent = False
            self._signal(signal.SIGURG)

    async def receive(self) -> FromChild | None:
        """Return what the child says next; None when it has said its last, or was let go.

        Raises:
            RemoteProtocolError: what it says is no message. The child can only be killed.
        """
        while (received := self._decoder.next_frame()) is None:
            if self._socket.fileno() >= 0:
                with contextlib.suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(self._socket)
            if self._socket.fileno() < 0:
                return None
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                continue
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
        with contextlib.suppress(OSError):
            self._socket.send(data)
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
        if self._printed.poll(0) or any(pipe.has_begun_a_line for pipe in self._pipes):
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

    async def wait_ended(self) -> bool:
        """Wait until its process has ended, whoever says so; False when that is known already, or nobody listens."""
        if self._pidfd is None:
            return False
        try:
            await trio.lowlevel.wait_readable(self._pidfd)
        except trio.ClosedResourceError:
            return False
        return True

    async def wait_dead(self) -> Death:
        """Return how the child ended, once it is reaped."""
        await self._dead.wait()
        assert self._death is not None
        return self._death

    async def aclose(self) -> None:
        """Let the child go: it leaves by itself when nothing more will come, or is killed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            with trio.move_on_after(LEAVE_S):
                await self.wait_dead()
            self.kill()
            await self.wait_dead()
        finally:
            self.forget()

    def forget(self) -> None:
        """Close what is open; nobody listens any more."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        self._close_handles()

    def _close_handles(self) -> None:
        if self._death_pipe is not None:
            os.close(self._death_pipe)
            self._death_pipe = None
        if self._pidfd is not None:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    async def note_death(
        self, exit_code: int | None, by_signal: int | None, peak_memory_bytes: int, was_overdue: bool
    ) -> None:
        """Take the report of the fork server, once the child's last output is read."""
        if self._death is not None:
            return
        with trio.move_on_after(OUTPUT_S):
            await self._outputs_read.wait()
        printed = self._output
        self._death = Death(
            self.pid, exit_code, by_signal, peak_memory_bytes, tuple(printed.lines), printed.dump, was_overdue
        )
        self._dead.set()
        # Descendants may hold the other end: say the end ourselves. What is in the buffer is still received.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._close_handles()

    async def read_output(self, name: str, descriptor: int, on_output: OnOutput) -> None:
        """Read a pipe to its end, line by line."""
        pipe = OutputPipe(descriptor, lambda line: self._keep(name, line, on_output))
        self._pipes.append(pipe)
        self._printed.register(descriptor, select.POLLIN)
        await pipe.read()
        self._pipes.remove(pipe)
        self._printed.unregister(descriptor)
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

    @property
    def has_begun_a_line(self) -> bool:
        """Whether the end of a line is still to come."""
        return bool(self._rest)

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
