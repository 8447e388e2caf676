"""ffsuper's submitter.

``BENCH_PARTITIONS``: of the new store, with executions in all of them; ``BENCH_PAYLOAD``: bytes of each payload;
``BENCH_FOREIGN``: the store holds a ``flowfabric`` library that is not known to be ours.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store.libraries import FLOWFABRIC, source
from ffsuper.store.store import prepare
from ffsuper.store.submissions import Submission

URL = os.environ["BENCH_URL"]
PARTITIONS = int(os.environ.get("BENCH_PARTITIONS", "0"))
PAYLOAD = bytes(int(os.environ.get("BENCH_PAYLOAD", "0")))
BATCH = 200
# One that is killed runs again at once.
POLICY = {"retry_policy": {"max_retries": 1_000, "backoff": {"type": "fixed", "delay_ms": 0}}}
clients: list[Client] = []


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    """Prepare the store, and keep a connection open."""
    if "BENCH_FOREIGN" in os.environ:
        with redis.Redis.from_url(URL) as store:
            store.function_load(f"#!lua name={FLOWFABRIC}\n{source(FLOWFABRIC)}", replace=True)
    if PARTITIONS:
        prepare(StoreConfig(url=URL), PartitionCounts(flow=PARTITIONS))
    with Client(URL) as client:
        clients.append(client)
        yield


async def fill(count: int) -> None:
    """Submit no-ops, in batches so that large payloads are not all here at once."""
    turns = itertools.count()

    def fresh_id() -> ExecutionId:
        return (
            ExecutionId(f"{{fp:{next(turns) % PARTITIONS}}}:{uuid.uuid4()}") if PARTITIONS else one.new_id("default")
        )

    one = clients[0]
    for first in range(0, count, BATCH):
        one.submit_many(
            [
                Submission(execution_id=fresh_id(), lane=LaneId("default"), execution_kind="no-op", payload=PAYLOAD)
                for _ in range(min(BATCH, count - first))
            ]
        )


async def submit(number: int, linger_s: float) -> None:
    """Submit one."""
    clients[0].submit("work", [number, linger_s], policy=POLICY)
