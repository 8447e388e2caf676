"""Inside a child: loads the handlers, runs them in the main thread, says what came of each.

The main thread waits on the socket between executions. While a handler runs nobody reads it; SIGURG announces that
the supervisor has sent something meanwhile. Its Python handler then reads what is there, and raises inside the user's
code if that is what was asked. It never raises while a message is being sent, which would tear that apart: the
interrupt waits for the end of the sending.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import logging
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ffsuper.child import codec, registry
from ffsuper.child.context import Context
from ffsuper.child.outcomes import Cancelled, Defer, Fatal, SoftTimeout
from ffsuper.child.payload import PayloadError, ResultError, read_payload, write_result
from ffsuper.errors import HandlerDefinitionError
from ffsuper.messages import (
    Completed,
    Deferred,
    Drain,
    Failed,
    FromChild,
    HandlerSettings,
    Interrupt,
    InterruptReason,
    Outcome,
    Ready,
    Start,
    ToChild,
    Unfit,
)
from ffsuper.sansio import frame

READ_BYTES = 1 << 16
# Of an exception's text, what is stored with the attempt.
REASON_CHARACTERS = 2_000


def run(supervisor: socket.socket, modules: Sequence[str], python_path: Sequence[str]) -> int:
    """Serve until the supervisor closes the socket; return the exit code."""
    faulthandler.register(signal.SIGQUIT, all_threads=True, chain=False)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    runtime = Runtime(supervisor)
    unfit = load_handlers(modules, python_path)
    if unfit is not None:
        runtime.send(unfit)
        return 1
    signal.signal(signal.SIGURG, lambda _number, _frame: runtime.read_announced())
    runtime.send(
        Ready(tuple(HandlerSettings(one.execution_kind, one.timeout_s) for one in registry.HANDLERS.values()))
    )
    with contextlib.suppress(ConnectionError, EOFError):  # the supervisor has closed the socket, or is gone
        runtime.serve()
    return 0


def load_handlers(modules: Sequence[str], python_path: Sequence[str]) -> Unfit | None:
    """Import the user's modules; return what is wrong with them, if anything is."""
    for folder in reversed(python_path):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    for module in modules:
        try:
            importlib.import_module(module)
        except HandlerDefinitionError as error:
            return Unfit(str(error), "")
        except BaseException as error:  # noqa: BLE001 -- whatever a user's module does, the operator is to read it
            told = f"{type(error).__name__}: {error}"
            return Unfit(f"module {module!r} does not import: {told}", traceback.format_exc())
    if not registry.HANDLERS:
        return Unfit(f"no handler is registered by {', '.join(modules)}: decorate a function with @handler(kind)", "")
    return None


class Runtime:
    """The conversation with the supervisor, and the execution that runs."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = supervisor
        self._decoder = frame.Decoder()
        self._inbox: deque[ToChild] = deque()
        self._running: str | None = None
        self._draining = False
        self._sending = threading.RLock()
        self._uninterruptible = 0
        self._interrupt: BaseException | None = None

    def serve(self) -> None:
        """Run executions until the socket ends.

        Raises:
            EOFError: it has ended.
        """
        while True:
            match self._next_message():
                case Start() as start:
                    self._execute(start)
                case Drain():
                    self._draining = True
                case Interrupt():
                    pass  # for an execution that has ended meanwhile

    def send(self, message: FromChild) -> None:
        """Send a message, whole."""
        with self._uninterrupted(), self._sending:
            self._supervisor.sendall(frame.encode(codec.to_frame(message)))

    def read_announced(self) -> None:
        """Read what has arrived while a handler runs, and raise inside it if it is to be interrupted."""
        if self._running is None:
            return  # the main thread will read it itself
        try:
            while data := self._supervisor.recv(READ_BYTES, socket.MSG_DONTWAIT):
                self._decoder.feed(data)
        except BlockingIOError:
            pass
        self._sort_in()
        for message in list(self._inbox):
            if isinstance(message, Drain):
                self._draining = True
            if isinstance(message, Interrupt) and message.execution_id == self._running:
                self._inbox.remove(message)
                self._raise(interrupt_error(message.reason))

    def _raise(self, error: BaseException) -> None:
        if self._uninterruptible:
            self._interrupt = error
        else:
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
        if self._interrupt is not None and not self._uninterruptible:
            error, self._interrupt = self._interrupt, None
            raise error

    def _next_message(self) -> ToChild:
        while not self._inbox:
            data = self._supervisor.recv(READ_BYTES)
            if not data:
                raise EOFError
            self._decoder.feed(data)
            self._sort_in()
        return self._inbox.popleft()

    def _sort_in(self) -> None:
        while (received := self._decoder.next_frame()) is not None:
            self._inbox.append(codec.for_child(received))

    def _execute(self, start: Start) -> None:
        try:
            self._running = start.execution_id
            self.read_announced()  # what came together with the start was announced too early
            outcome = self._outcome_of(start)
        except BaseException as error:  # noqa: BLE001 -- an interrupt that came between the handler and here
            outcome = failure_of(error)
        finally:
            self._running = None
            self._interrupt = None
        flush_output()
        self.send(outcome)

    def _outcome_of(self, start: Start) -> Outcome:
        found = registry.HANDLERS[start.execution_kind]
        context = Context(start, self.send, lambda: self._draining)
        try:
            if found.takes_payload:
                value = found.function(context, read_payload(start.payload, found.payload_type))
            else:
                value = found.function(context)
            return Deferred(value.until_ms) if isinstance(value, Defer) else Completed(write_result(value))
        except Defer as deferral:
            return Deferred(deferral.until_ms)
        except (PayloadError, ResultError) as error:
            return error.failure()
        except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything; the child goes on
            return failure_of(error)


def interrupt_error(reason: InterruptReason) -> BaseException:
    """Return what is raised inside the handler."""
    match reason:
        case InterruptReason.TIMEOUT:
            return SoftTimeout("the handler's timeout is over")
        case InterruptReason.CANCELLED:
            return Cancelled("the execution was cancelled")
        case InterruptReason.LEASE_LOST:
            return Cancelled("the lease was lost")


def failure_of(error: BaseException) -> Failed:
    """Return the failure for what a handler raised; its traceback goes to stderr."""
    traceback.print_exception(error)
    text = f"{type(error).__name__}: {error}"[:REASON_CHARACTERS]
    match error:
        case Fatal():
            return Failed(str(error)[:REASON_CHARACTERS] or text, "fatal", retryable=False)
        case SoftTimeout():
            return Failed(text, "timeout")
        case Cancelled():
            return Failed(text, "cancelled")
        case _:
            return Failed(text, "exception")


def flush_output() -> None:
    """Write out what user code has printed, whatever it has done to the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
