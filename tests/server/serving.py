"""The HTTP interface on a real store, without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from ffsuper.config import StoreConfig
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.server.application import application
from ffsuper.server.scheduler import Scheduler
from ffsuper.server.service import Service
from ffsuper.store.admission import Admission
from ffsuper.store.connection import open_connection

COUNTS = PartitionCounts()


@asynccontextmanager
async def serving(settings: StoreConfig, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Provide what sends requests to an application."""
    async with open_connection(settings, "server") as connection:
        app = application(Service(connection, COUNTS, Scheduler(Admission(connection, COUNTS))), token)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as sender:
            yield sender
