"""What the routes share: the store, the scheduler, what goes on behind an answer, and how failures are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio
from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ffsuper.config import ServerConfig, StoreConfig
from ffsuper.errors import (
    ExecutionNotFoundError,
    OutcomeUnknownError,
    RefusedError,
    StoreError,
    StoreUnavailableError,
)
from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import PartitionCounts, parse
from ffsuper.server.metrics import Metrics
from ffsuper.server.rounds import Rounds
from ffsuper.server.scheduler import Scheduler
from ffsuper.store import submissions
from ffsuper.store.admission import Admission
from ffsuper.store.connection import Connection, open_connection
from ffsuper.store.replies import Call

T = TypeVar("T")

# What goes on behind an answer, like the cancelling of a flow's members, may take so long at the end.
BACKGROUND_GRACE_S = 15.0


class HttpError(Exception):
    """The caller's: a request that cannot be served; told with this status.

    Attributes:
        status: of HTTP, 4xx.
        text: for people.
        more: further members of the answer.
    """

    def __init__(self, status: int, text: str, **more: Any) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.more = more


class Pool:
    """Lets so many calls of one kind be served at a time, and turns more away."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self.used = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place.

        Raises:
            HttpError: there is none; the caller should ask again later.
        """
        if self.used >= self._most:
            told = f"too many concurrent {self._name} calls (server max: {self._most}); retry with backoff"
            raise HttpError(429, told, retryable=True)
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The store as the routes use it.

    Attributes:
        streams: a connection of its own, for a large answer keeps the others of its batch waiting.
        background: for what goes on behind an answer.
        stopping: whoever waits for something to come should not wait any longer.
    """

    config: ServerConfig
    counts: PartitionCounts
    connection: Connection
    streams: Connection
    rounds: Rounds
    background: trio.Nursery
    stopping: trio.Event
    stream_operations: Pool
    rotations: Pool = field(default_factory=lambda: Pool("admin_rotate", 1))
    metrics: Metrics = field(default_factory=Metrics)

    async def run(self, call: Call[T]) -> T:
        """Carry out one call.

        Raises:
            StoreError: see ``Connection.run``.
        """
        return await self.connection.run(call)

    async def record(self, execution_id: ExecutionId) -> dict[str, str]:
        """Return an execution's record.

        Raises:
            HttpError: there is none.
        """
        record = await self.run(submissions.read_core(execution_id))
        if not record:
            raise HttpError(404, f"execution not found: {execution_id}")
        return record

    @asynccontextmanager
    async def watched(self, request: Request) -> AsyncIterator[trio.Event]:
        """Provide an event that is set when the caller has gone.

        Starlette's own ``is_disconnected`` never tells it under trio.
        """
        gone, watching = trio.Event(), trio.CancelScope()

        async def watch() -> None:
            with watching:
                with suppress(HTTPException):  # a body that nobody has asked for, and that is too much
                    while (await request.receive())["type"] != "http.disconnect":
                        pass
                gone.set()

        self.background.start_soon(watch)
        try:
            yield gone
        finally:
            watching.cancel()


@asynccontextmanager
async def open_service(
    config: ServerConfig, store: StoreConfig, counts: PartitionCounts, stopping: trio.Event
) -> AsyncIterator[Service]:
    """Open the connections of a server."""
    async with (
        open_connection(store, "server") as connection,
        open_connection(store, "streams") as streams,
        trio.open_nursery() as background,
    ):
        yield Service(
            config=config,
            counts=counts,
            connection=connection,
            streams=streams,
            rounds=Rounds(Scheduler(Admission(connection, counts), counts.flow), background, stopping),
            background=background,
            stopping=stopping,
            stream_operations=Pool("stream_ops", config.stream_operations),
        )
        stopping.set()
        background.cancel_scope.deadline = trio.current_time() + BACKGROUND_GRACE_S


async def service_of(request: Request) -> Service:  # async, or the framework takes a thread for it
    """Return the service of the application that a request came to."""
    found: Service = request.app.state.service
    return found


def path_id(text: str) -> ExecutionId:
    """Return the execution that a path names.

    Raises:
        HttpError: it is no execution's id.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise HttpError(400, str(error)) from None


def same(name: str, in_path: str, in_body: str) -> None:
    """Compare what a path and a body name.

    Raises:
        HttpError: they differ.
    """
    if in_path != in_body:
        raise HttpError(400, f"path {name} does not match body {name}")


def told(error: StoreError) -> JSONResponse:
    """Return the answer to a request that the store did not carry out."""
    match error:
        case ExecutionNotFoundError():
            return failure(404, f"{error.function} failed: {error.code}")
        case RefusedError():
            return failure(400, f"{error.function} failed: {error.code}")
        case StoreUnavailableError() | OutcomeUnknownError():
            return failure(500, f"valkey: {error}", kind="io_error", retryable=True)
        case _:
            return failure(500, f"valkey: {error}", kind="response_error", retryable=False)


def failure(status: int, text: str, **more: Any) -> JSONResponse:
    """Return an answer that tells what is wrong, with whatever a caller has put into it."""
    shown = text.encode(errors="backslashreplace").decode()
    return JSONResponse({"error": shown, **more}, status)
