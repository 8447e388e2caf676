"""What the routes share: the store, the scheduler, and how failures are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse

from ffsuper.errors import (
    ExecutionNotFoundError,
    OutcomeUnknownError,
    RefusedError,
    StoreError,
    StoreUnavailableError,
)
from ffsuper.messages import ExecutionId
from ffsuper.sansio.partition import PartitionCounts, parse
from ffsuper.server.scheduler import Scheduler
from ffsuper.store import submissions
from ffsuper.store.connection import Connection
from ffsuper.store.replies import Call

T = TypeVar("T")


class HttpError(Exception):
    """The caller's: a request that cannot be served; told with this status.

    Attributes:
        status: of HTTP, 4xx.
        text: for people.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Service:
    """The store as the routes use it."""

    connection: Connection
    counts: PartitionCounts
    scheduler: Scheduler

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


def service_of(request: Request) -> Service:
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
    """Return an answer that tells what is wrong."""
    return JSONResponse({"error": text, **more}, status)
