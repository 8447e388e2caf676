"""The child's end of the socket to the supervisor: messages whole, and told to the task that they are for.

Imported inside children: the standard library only.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ffsuper.child import codec
from ffsuper.child.context import Task
from ffsuper.child.outcomes import Cancelled, SoftTimeout
from ffsuper.messages import Drain, FromChild, Interrupt, InterruptReason, Start, ToChild
from ffsuper.sansio import frame

READ_BYTES = 1 << 16


class Conversation:
    """What the runtimes share.

    Attributes:
        starts: executions to be run, in order.
        tasks: those that run, by number.
        draining: the worker is about to stop.
        decoder: what has arrived in part.
    """

    def __init__(self, supervisor: socket.socket) -> None:
        self.supervisor = supervisor
        self.starts: deque[Start] = deque()
        self.tasks: dict[int, Task] = {}
        self.draining = False
        self.decoder = frame.Decoder()
        self._early: dict[int, InterruptReason] = {}

    def feed(self, data: bytes) -> None:
        """Take what was received, and tell it to whom it concerns.

        Raises:
            EOFError: the supervisor has closed the socket.
        """
        if not data:
            raise EOFError
        self.decoder.feed(data)
        while (received := self.decoder.next_frame()) is not None:
            self._take(codec.for_child(received))

    def _take(self, message: ToChild) -> None:
        match message:
            case Start():
                self.starts.append(message)
            case Drain():
                self.draining = True
            case Interrupt(number, reason):
                if (task := self.tasks.get(number)) is not None:
                    self._interrupt_task(task, reason)
                elif any(start.task == number for start in self.starts):
                    self._early[number] = reason
            case _:
                if (task := self.tasks.get(message.task)) is not None:
                    task.note(message)
                    self.answered(task)

    def begin(self, task: Task) -> None:
        """Note that a task runs; one whose interrupt came together with its start is interrupted at once."""
        self.tasks[task.number] = task
        if (reason := self._early.pop(task.number, None)) is not None:
            self._interrupt_task(task, reason)

    def _interrupt_task(self, task: Task, reason: InterruptReason) -> None:
        task.cancelled |= reason in (InterruptReason.CANCELLED, InterruptReason.LEASE_LOST)
        self.interrupt(task, reason)

    def interrupt(self, task: Task, reason: InterruptReason) -> None:
        """Bring a running handler to its end."""
        raise NotImplementedError

    def answered(self, task: Task) -> None:
        """Let a handler go on that may have waited for this."""


class Blocking(Conversation):
    """The conversation of plain functions, which run in the main thread one after the other.

    The main thread waits on the socket between executions. While a handler runs nobody reads it, unless the handler
    waits for an answer; SIGURG announces that the supervisor has sent something. Its Python handler then reads what
    is there, and raises inside the user's code if that is what was asked. It never raises while a message is being
    sent, which would tear that apart: the interrupt waits for the end of the sending. Threads of the user's may speak
    too: one thread at a time reads, and wakes the main thread if it has read its interrupt.
    """

    def __init__(self, supervisor: socket.socket) -> None:
        super().__init__(supervisor)
        self._sending = threading.RLock()
        # Not reentrant: the signal's handler must not read in the middle of what it has interrupted.
        self._turn = threading.Condition(threading.Lock())
        self._is_reading = False
        self._uninterruptible = 0
        self._interrupt: BaseException | None = None

    def send(self, message: FromChild) -> None:
        """Send a message, whole."""
        with self._uninterrupted(), self._sending:
            self.supervisor.sendall(frame.encode(codec.to_frame(message)))

    def wait(self, ready: Callable[[], bool]) -> None:
        """Receive until a condition holds.

        Raises:
            EOFError: the supervisor has closed the socket.
        """
        while True:
            with self._turn:
                while self._is_reading and not ready():
                    self._turn.wait()
                if ready():
                    return
            with self._uninterrupted():
                self._read()

    def _read(self) -> None:
        """Wait for messages, unless somebody else does by now."""
        with self._turn:
            if self._is_reading:
                return
            self._is_reading = True
        data = b""
        try:
            data = self.supervisor.recv(READ_BYTES)
        finally:
            with self._turn:
                self._is_reading = False
                self._turn.notify_all()
                self.feed(data)
        self._settle()

    def read_announced(self) -> None:
        """Read what has arrived while a handler runs, and raise inside it if it is to be interrupted."""
        if not self.tasks:
            return  # the main thread will read it itself
        if self._turn.acquire(blocking=False):
            try:
                while not self._is_reading:
                    self.feed(self.supervisor.recv(READ_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                pass
            finally:
                self._turn.release()
        self._settle()

    def interrupt(self, task: Task, reason: InterruptReason) -> None:
        """Have the main thread raise inside the handler."""
        self._interrupt = interrupt_error(reason)

    def forget_interrupt(self) -> None:
        """Drop an interrupt that came too late."""
        self._interrupt = None

    def _settle(self) -> None:
        if self._interrupt is None:
            return
        if threading.current_thread() is not threading.main_thread():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)
        elif not self._uninterruptible:
            error, self._interrupt = self._interrupt, None
            raise error

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        """Put an interrupt off until the block is done. Only the main thread is ever interrupted."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._uninterruptible += 1
        try:
            yield
        finally:
            self._uninterruptible -= 1
        self._settle()


def interrupt_error(reason: InterruptReason) -> BaseException:
    """Return what is raised inside the handler."""
    match reason:
        case InterruptReason.TIMEOUT:
            return SoftTimeout("the handler's timeout is over")
        case InterruptReason.NO_PROGRESS:
            return SoftTimeout("the handler has shown no progress for too long")
        case InterruptReason.DEADLINE:
            return SoftTimeout("the execution's deadline has passed")
        case InterruptReason.CANCELLED:
            return Cancelled("the execution was cancelled")
        case InterruptReason.LEASE_LOST:
            return Cancelled("the lease was lost")
