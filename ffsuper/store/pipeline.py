r"""Many trio tasks share one connection to a server without waiting for one another's round trips.

Callers put their commands into an outbox. The writer sends whatever has gathered there since it last ran as one
batch, without waiting for the answers to earlier batches; the reader hands the replies of a whole batch to those who
asked:

    waiting --writer takes it--> sent --replies--> answered
       \--caller gives up--> never sent            a sent one that is given up is read to its end all the same

so cancellation never leaves the connection half-read, and a caller that gives up knows whether its commands may have
been carried out. Nothing is connected before the first request, and again at the first one after a loss.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import outcome
import redis
import trio

from ffsuper.config import StoreConfig
from ffsuper.errors import LibraryMissingError, OutcomeUnknownError, StoreError, StoreUnavailableError
from ffsuper.store import loading
from ffsuper.store.link import BROKEN, Link, packed
from ffsuper.store.replies import error_of
from ffsuper.store.wire import READS, Command, ServerWire, confirmed, connection_maker, lost_answer, wait_command

# More than this many commands in a batch only delay the first answer; the writer is back for the rest at once.
MAX_BATCH_COMMANDS = 512
# Errors after which another connection may fare better: the password has changed, or a failover is over.
TRY_ANOTHER = (redis.exceptions.AuthenticationError, redis.exceptions.ReadOnlyError)


class Request:
    """The commands of one caller, and the task that waits for their replies; None when it does not wait any more."""

    __slots__ = ("count", "data", "is_sent", "task", "writes")

    def __init__(self, commands: Sequence[Command], task: trio.lowlevel.Task) -> None:
        self.data = packed(commands)
        self.count = len(commands)
        self.writes = not all(command[0] in READS for command in commands)
        self.task: trio.lowlevel.Task | None = task
        self.is_sent = False

    def answer(self, replies: outcome.Outcome[list[Any]]) -> None:
        """Let the caller go on, if it still waits."""
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, replies)


@dataclass(slots=True)
class Batch:
    """Requests that were sent together.

    Attributes:
        waits: whether the number of replicas that have it all comes behind the replies.
        missing: replies that are still to come.
    """

    requests: list[Request]
    sent_s: float
    waits: bool
    missing: int
    replies: list[Any] = field(default_factory=list)


class Pipeline:
    """The way to one server."""

    def __init__(self, settings: StoreConfig, name: str) -> None:
        self._settings = settings
        self._name = name
        self._maker = connection_maker(settings, name)
        self._wait = packed([wait_command(settings)])
        self._outbox: deque[Request] = deque()
        self._sent: deque[Batch] = deque()
        self._link: Link | None = None
        self._parked: trio.lowlevel.Task | None = None
        self._is_outdated = False
        self._restored_s = -math.inf
        self._scope = trio.CancelScope()
        self._defect: Exception | None = None

    async def exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send all commands at once, and return their replies.

        Returns:
            list in the order of ``commands``; a StoreError in the place of each that failed by itself
            (StoreUnavailableError: nothing was sent) or whose answer was lost (OutcomeUnknownError).
        """
        request = Request(commands, trio.lowlevel.current_task())

        def give_up(_: Any) -> trio.lowlevel.Abort:
            request.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_after(timeout_s):
            self._put(request)
            replies: list[Any] = await trio.lowlevel.wait_task_rescheduled(give_up)
            return replies
        late: StoreError = StoreUnavailableError(f"the store did not take the call within {timeout_s:g} s")
        if request.is_sent:
            late = OutcomeUnknownError(f"the store did not answer within {timeout_s:g} s")
            self._lose_if_silent()
        return [late] * len(commands)

    def _put(self, request: Request) -> None:
        if self._defect is not None:
            raise self._defect
        self._outbox.append(request)
        if self._parked is not None:
            task, self._parked = self._parked, None
            trio.lowlevel.reschedule(task)

    def node_of(self, key: str) -> str:
        """Return nothing: here are no nodes to be told apart."""
        return ""

    def start(self) -> None:
        """Begin to serve: in the background, because calls are still to be answered when all actors are cancelled."""
        trio.lowlevel.spawn_system_task(self._serve, name=f"store-{self._name}")

    def stop(self) -> None:
        """Stop, and close the connection. Who still waits for an answer is told so."""
        self._scope.cancel()
        if self._link is not None:
            self._lose(self._link, "it was not waited for")
        self._refuse(StoreUnavailableError("the connection to the store has been given up"))

    async def _serve(self) -> None:
        """Send and receive until stopped; a defect of ours ends those who ask, and so the program."""
        try:
            with self._scope:
                await self._write()
        except Exception as defect:  # noqa: BLE001 -- handed on
            self._defect = defect
            for request in [*(one for batch in self._sent for one in batch.requests), *self._outbox]:
                request.answer(outcome.Error(defect))

    async def _write(self) -> None:
        async with trio.open_nursery() as readers:
            while True:
                if not self._outbox:
                    await self._rest()
                if self._link is not None and not self._sent and self._link.has_ended:
                    self._lose(self._link, "it was closed")
                if self._link is None and not await self._connect(readers):
                    continue
                await self._send_gathered()

    async def _rest(self) -> None:
        """Wait until there is a request."""

        def wake(_: Any) -> trio.lowlevel.Abort:
            self._parked = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(wake)

    async def _connect(self, readers: trio.Nursery) -> bool:
        """Connect; where that fails, say so to all who wait."""
        try:
            self._link = await Link.open(self._maker)
        except StoreError as error:
            self._refuse(error)
            return False
        readers.start_soon(self._read, self._link)
        return True

    def _refuse(self, error: StoreError) -> None:
        """Answer all that was not sent."""
        while self._outbox:
            request = self._outbox.popleft()
            request.answer(outcome.Value([error] * request.count))

    async def _send_gathered(self) -> None:
        """Send what has gathered."""
        batch = self._gather()
        link = self._link
        if link is None or not batch.requests:
            return
        self._sent.append(batch)
        data = b"".join([request.data for request in batch.requests])
        try:
            await link.send(data + self._wait if batch.waits else data)
        except BROKEN as error:
            self._lose(link, error)

    def _gather(self) -> Batch:
        requests: list[Request] = []
        size = 0
        while self._outbox and size < MAX_BATCH_COMMANDS:
            request = self._outbox.popleft()
            if request.task is not None:
                request.is_sent = True
                requests.append(request)
                size += request.count
        waits = self._settings.wait_replicas > 0 and any(request.writes for request in requests)
        return Batch(requests, trio.current_time(), waits, size + waits)

    async def _read(self, link: Link) -> None:
        """Receive until the connection is lost."""
        try:
            while link is self._link:
                for reply in await link.receive():
                    if not self._sent:
                        raise redis.InvalidResponse("it has said what nobody asked for")
                    batch = self._sent[0]
                    batch.replies.append(error_of(reply) if isinstance(reply, redis.RedisError) else reply)
                    batch.missing -= 1
                    self._is_outdated |= isinstance(reply, TRY_ANOTHER)
                    if not batch.missing:
                        self._sent.popleft()
                        await self._restore_library(batch)
                        self._answer(batch)
                        if link is not self._link:
                            return  # lost meanwhile: what else it has said is about batches that are answered
                if self._is_outdated and not self._sent:
                    self._lose(link, "another one is needed")
        except BROKEN as error:
            self._lose(link, error)

    async def _restore_library(self, batch: Batch) -> None:
        """Load a library that the store has lost, before those who ask hear of it."""
        if batch.sent_s < self._restored_s or not any(isinstance(one, LibraryMissingError) for one in batch.replies):
            return
        try:
            await trio.to_thread.run_sync(restore_library, self._settings, self._name)
        except StoreError as error:
            batch.replies = [error if isinstance(one, LibraryMissingError) else one for one in batch.replies]
        self._restored_s = trio.current_time()

    def _answer(self, batch: Batch) -> None:
        """Answer those who asked."""
        replies = batch.replies
        if batch.waits:
            *replies, reached = replies
            replies = confirmed(replies, reached, self._settings.wait_replicas)
        start = 0
        for request in batch.requests:
            request.answer(outcome.Value(replies[start : start + request.count]))
            start += request.count

    def _lose(self, link: Link, why: object) -> None:
        """Drop a connection; what it has not answered may have been carried out."""
        if link is not self._link:
            return
        self._link = None
        self._is_outdated = False
        link.close()
        while self._sent:
            batch = self._sent.popleft()
            batch.replies += [lost_answer(why)] * batch.missing
            self._answer(batch)

    def _lose_if_silent(self) -> None:
        """Drop the connection if the server owes an answer for too long: it hangs, or the way to it is cut."""
        if self._link is not None and self._sent:
            silent_s = trio.current_time() - self._sent[0].sent_s
            if silent_s >= self._settings.timeout_s:
                self._lose(self._link, f"none came within {self._settings.timeout_s:g} s")


def restore_library(settings: StoreConfig, name: str) -> None:
    """Load libraries again that the server has lost, where that is allowed. Blocks.

    Raises:
        StoreError: see ``loading.restore``.
    """
    wire = ServerWire(settings, name)
    try:
        loading.restore(wire, settings.library)
    finally:
        wire.close()
