"""Inside a child: loads the handlers, runs them in the main thread, says what came of each."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import logging
import os
import pwd
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ffsuper.child import registry
from ffsuper.child.context import Context, Task
from ffsuper.child.conversation import Blocking
from ffsuper.child.outcomes import Directive, failed
from ffsuper.child.payload import PayloadError, ResultError, read_payload, write_result
from ffsuper.errors import HandlerDefinitionError
from ffsuper.messages import Completed, Ended, Failed, HandlerSettings, Outcome, Ready, Start, Unfit

# Of an exception's text, what is stored with the attempt.
REASON_CHARACTERS = 2_000
# The descriptor, for user code may have put something else in the place of sys.stderr.
STDERR = 2
# Files of who imports the user's modules.
IMPORTERS = (str(Path(__file__).parent), importlib.__file__, "<frozen importlib")


def run(supervisor: socket.socket, modules: Sequence[str], python_path: Sequence[str]) -> int:
    """Serve until the supervisor closes the socket; return the exit code."""
    faulthandler.enable(STDERR, all_threads=True)
    faulthandler.register(signal.SIGQUIT, STDERR, all_threads=True, chain=False)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    runtime = Runtime(supervisor)
    unfit = load_handlers(modules, python_path)
    if unfit is not None:
        runtime.conversation.send(unfit)
        return 1
    signal.signal(signal.SIGURG, lambda _number, _frame: runtime.conversation.read_announced())
    runtime.conversation.send(Ready(tuple(map(settings_of, registry.HANDLERS.values()))))
    libraries = {one.library for one in registry.HANDLERS.values() if one.library is not None}
    with contextlib.suppress(ConnectionError, EOFError):  # the supervisor has closed the socket, or is gone
        if not libraries:
            runtime.serve()
        from ffsuper.child.async_runtime import serve

        serve(runtime, *libraries)
    return 0


def settings_of(one: registry.Handler) -> HandlerSettings:
    """Return what a registration asks of the supervisor."""
    return HandlerSettings(one.execution_kind, one.timeout_s, one.progress_timeout_s, one.library is not None)


def load_handlers(modules: Sequence[str], python_path: Sequence[str]) -> Unfit | None:
    """Import the user's modules; return what is wrong with them, if anything is."""
    for folder in reversed(python_path):
        if not os.access(folder, os.R_OK | os.X_OK):
            return Unfit(
                f"[worker] python_path: {folder} cannot be read by {own_name()}, whom the handlers run as", ""
            )
        if folder not in sys.path:
            sys.path.insert(0, folder)
    for module in modules:
        try:
            importlib.import_module(module)
        except HandlerDefinitionError as error:
            return Unfit(str(error), "")
        except BaseException as error:  # noqa: BLE001 -- whatever a user's module does, the operator is to read it
            told = f"{type(error).__name__}: {error}"
            return Unfit(f"module {module!r} does not import: {told}", import_traceback(error))
    if not registry.HANDLERS:
        return Unfit(f"no handler is registered by {', '.join(modules)}: decorate a function with @handler(kind)", "")
    libraries = {one.library for one in registry.HANDLERS.values()} - {None}
    if len(libraries) > 1:
        return Unfit("async handlers of one worker must all run on trio, or all on asyncio", "")
    return None


def own_name() -> str:
    """Return the name of the user that we run as; the number of one that has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def import_traceback(error: BaseException) -> str:
    """Return the traceback of an import, from the user's first line on; empty where that is all that was said."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(IMPORTERS):
        trace = trace.tb_next
    if trace is None and not isinstance(error, SyntaxError):
        return ""
    return "".join(traceback.format_exception(error.with_traceback(trace)))


class Runtime:
    """Runs plain functions."""

    def __init__(self, supervisor: socket.socket) -> None:
        self.conversation = Blocking(supervisor)

    def serve(self) -> None:
        """Run executions until the socket ends.

        Raises:
            EOFError: it has ended.
        """
        while True:
            self.conversation.wait(lambda: bool(self.conversation.starts))
            self.execute(self.conversation.starts.popleft())

    def execute(self, start: Start) -> None:
        """Run one execution, and send what it came to."""
        task = Task(start)
        conversation = self.conversation
        try:
            conversation.begin(task)
            conversation.read_announced()  # what came just behind the start was announced too early
            value = self._call(start, task)
            conversation.tasks.clear()  # an interrupt that comes from here on is too late
            outcome = outcome_of(value)
        except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything; the child goes on
            outcome = failure_of(error)
        finally:
            task.over = True
            conversation.tasks.clear()
            conversation.forget_interrupt()
        flush_output()
        conversation.send(Ended(task.number, outcome))

    def _call(self, start: Start, task: Task) -> object:
        found = handler_of(start)
        arguments = (read_payload(start.payload, found.payload_type),) if found.takes_payload else ()
        return found.function(Context(task, self.conversation), *arguments)


class UnknownKindError(Exception):
    """Nobody has registered a handler for an execution's kind."""


def handler_of(start: Start) -> registry.Handler:
    """Return the handler for an execution.

    Raises:
        UnknownKindError: there is none.
    """
    if start.execution_kind not in registry.HANDLERS:
        raise UnknownKindError(f"no handler is registered for kind {start.execution_kind!r}")
    return registry.HANDLERS[start.execution_kind]


def outcome_of(value: object) -> Outcome:
    """Return the outcome that a handler has returned."""
    try:
        return value.outcome() if isinstance(value, Directive) else Completed(write_result(value))
    except ResultError as error:
        return error.failure()


def failure_of(error: BaseException) -> Outcome:
    """Return the outcome that a handler has raised; the traceback of a failure goes to stderr."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # as a nursery or a task group wraps it
    if isinstance(error, Directive):
        return error.outcome()
    if isinstance(error, PayloadError):
        return error.failure()
    if isinstance(error, UnknownKindError):
        return Failed(str(error), "unknown_kind", retryable=False)
    traceback.print_exception(error.with_traceback(users_part(error.__traceback__)))
    return failed(error, REASON_CHARACTERS)


def users_part(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first line on that is not ours."""
    here = str(Path(__file__).parent)
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(here) and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def flush_output() -> None:
    """Write out what user code has printed, whatever it has done to the streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
