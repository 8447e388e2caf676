r"""The batching thread: many trio tasks share one connection without waiting for one another's round trips.

Callers put their commands into an inbox. A thread of its own takes whatever has gathered, sends it as one pipeline,
and hands all replies back to trio in one step. A request is in one of three states, changed under a lock:

    WAITING --thread takes it--> SENT --replies--> (answered)
       \--caller gives up--> ABANDONED               a SENT one that is given up is read to its end all the same

so cancellation never leaves the connection half-read, and a caller that gives up knows whether its commands may have
been carried out.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Any, TypeVar

import outcome
import trio

from ffsuper.config import StoreConfig
from ffsuper.errors import LibraryMissingError, OutcomeUnknownError, StoreError, StoreUnavailableError
from ffsuper.store import libraries
from ffsuper.store.cluster import open_wire
from ffsuper.store.replies import Call
from ffsuper.store.wire import Command

T = TypeVar("T")

# More than this many commands in a pipeline only delay the first answer; the thread is back for the rest at once.
MAX_BATCH_COMMANDS = 512


class State(Enum):
    """Where a request is; see the module's text."""

    WAITING = auto()
    SENT = auto()
    ABANDONED = auto()


class Request:
    """The commands of one caller and the task that waits for their replies."""

    __slots__ = ("commands", "state", "task")

    def __init__(self, commands: Sequence[Command], task: trio.lowlevel.Task) -> None:
        self.commands = commands
        self.task: trio.lowlevel.Task | None = task
        self.state = State.WAITING


class Connection:
    """The store as seen by one role: leases, work, or sweeps."""

    def __init__(self, settings: StoreConfig, role: str) -> None:
        self._settings = settings
        self._wire = open_wire(settings, f"ffsuper-{role}")
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()

    async def run(self, call: Call[T], timeout_s: float | None = None) -> T:
        """Carry out one call.

        Raises:
            StoreUnavailableError: certainly not carried out.
            OutcomeUnknownError: sent, but not answered within the time.
            StoreError: as the server or the call's own reading of the reply says.
        """
        (result,) = await self.run_all([call], timeout_s)
        return result

    async def run_all(self, calls: Sequence[Call[T]], timeout_s: float | None = None) -> list[T]:
        """Carry out calls in their order, in one pipeline; calls of other tasks may come in between.

        Args:
            timeout_s: for all of them together; the configured time when None.

        Raises:
            StoreError: the first failure among them; the later calls may have been carried out all the same.
        """
        results = []
        for call, reply in zip(calls, await self._exchange(calls, timeout_s), strict=True):
            if isinstance(reply, StoreError):
                raise reply
            results.append(call.parse(reply))
        return results

    async def try_all(self, calls: Sequence[Call[T]], timeout_s: float | None = None) -> list[T | StoreError]:
        """As ``run_all``, with a StoreError in the place of each call that failed."""
        results: list[T | StoreError] = []
        for call, reply in zip(calls, await self._exchange(calls, timeout_s), strict=True):
            try:
                results.append(reply if isinstance(reply, StoreError) else call.parse(reply))
            except StoreError as error:
                results.append(error)
        return results

    async def _exchange(self, calls: Sequence[Call[Any]], limit_s: float | None) -> list[Any]:
        if not calls:
            return []
        timeout_s = self._settings.timeout_s if limit_s is None else limit_s
        request = Request([call.command for call in calls], trio.lowlevel.current_task())

        def give_up(_: Any) -> trio.lowlevel.Abort:
            self._abandon(request)
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_after(timeout_s):
            self._inbox.put(request)
            replies: list[Any] = await trio.lowlevel.wait_task_rescheduled(give_up)
            return replies
        late: StoreError = StoreUnavailableError(f"the store did not take the call within {timeout_s:g} s")
        if request.state is State.SENT:
            late = OutcomeUnknownError(f"the store did not answer within {timeout_s:g} s")
        return [late] * len(calls)

    async def nodes_of(self, keys: Sequence[str]) -> list[str]:
        """Name the node of a cluster that serves each key; all names are empty where there is no cluster.

        Raises:
            StoreError: the cluster cannot be asked.
        """
        if keys and self._wire.node_of(keys[0]) is None:
            await self.run(Call(("EXISTS", keys[0]), bool))
        return [self._wire.node_of(key) or "" for key in keys]

    def _abandon(self, request: Request) -> None:
        with self._lock:
            request.task = None
            if request.state is State.WAITING:
                request.state = State.ABANDONED

    def serve(self, token: trio.lowlevel.TrioToken) -> None:
        """Work off the inbox until told to stop; the body of the thread."""
        while (first := self._inbox.get()) is not None:
            batch, stop = self._gather(first)
            if batch:
                try:
                    token.run_sync_soon(self._deliver, batch, self._answers_or_defect(batch))
                except trio.RunFinishedError:
                    stop = True
            if stop:
                break
        self._wire.close()

    def stop(self) -> None:
        """Let the thread end after what is in its inbox."""
        self._inbox.put(None)

    def _gather(self, first: Request) -> tuple[list[Request], bool]:
        """Take what has gathered behind ``first``; the second value tells that the end was among it."""
        gathered, size, stop = [first], len(first.commands), False
        while size < MAX_BATCH_COMMANDS:
            try:
                request = self._inbox.get_nowait()
            except queue.Empty:
                break
            if request is None:
                stop = True
                break
            gathered.append(request)
            size += len(request.commands)
        with self._lock:
            batch = [request for request in gathered if request.state is State.WAITING]
            for request in batch:
                request.state = State.SENT
        return batch, stop

    def _answers_or_defect(self, batch: Sequence[Request]) -> list[Any] | BaseException:
        """Return the answers; a defect of ours ends those who asked, and so the program, not this thread alone."""
        try:
            return self._answers(batch)
        except Exception as defect:  # noqa: BLE001 -- handed on
            return defect

    def _answers(self, batch: Sequence[Request]) -> list[Any]:
        commands = [command for request in batch for command in request.commands]
        try:
            answers = self._wire.exchange(commands)
            if any(isinstance(answer, LibraryMissingError) for answer in answers):
                libraries.restore(self._wire, self._settings.library)
        except StoreError as error:
            return [error] * len(commands)
        return answers

    def _deliver(self, batch: Sequence[Request], answers: Sequence[Any] | BaseException) -> None:
        start = 0
        for request in batch:
            end = start + len(request.commands)
            if request.task is not None:
                task, request.task = request.task, None
                if isinstance(answers, BaseException):
                    trio.lowlevel.reschedule(task, outcome.Error(answers))
                else:
                    trio.lowlevel.reschedule(task, outcome.Value(list(answers[start:end])))
            start = end


@asynccontextmanager
async def open_connection(settings: StoreConfig, role: str) -> AsyncIterator[Connection]:
    """Run a batching thread while the block lasts. Nothing is connected before the first call."""
    connection = Connection(settings, role)
    thread = threading.Thread(
        target=connection.serve,
        args=(trio.lowlevel.current_trio_token(),),
        name=f"store-{role}",
        daemon=True,  # a thread that waits for a dead store must not hold up the exit
    )
    thread.start()
    try:
        yield connection
    finally:
        connection.stop()
