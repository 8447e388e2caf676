"""The HTTP interface on a real store, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import trio

from ffsuper.config import ServerConfig, StoreConfig
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.server.application import application
from ffsuper.server.service import open_service

COUNTS = PartitionCounts()


class Whole(httpx.AsyncByteStream):
    """A body in one part. Not a generator: the application need not ask for all of it."""

    def __init__(self, body: bytes) -> None:
        self._left = [body]

    def __aiter__(self) -> Whole:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class Transport(httpx.ASGITransport):
    """Hands requests to an application."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.stream = Whole(await request.aread())
        return await super().handle_async_request(request)


@asynccontextmanager
async def serving(
    settings: StoreConfig, config: ServerConfig | None = None, stopping: trio.Event | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """Provide what sends requests to an application."""
    stopping = trio.Event() if stopping is None else stopping
    async with open_service(config or ServerConfig(), settings, COUNTS, stopping) as service:
        transport = Transport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as sender:
            yield sender
