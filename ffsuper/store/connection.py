"""The store as one role of actors sees it: calls in, their results or failures out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreError
from ffsuper.store.cluster import is_cluster
from ffsuper.store.cluster_pipelines import ClusterPipelines
from ffsuper.store.outage import STORE_AWAY
from ffsuper.store.pipeline import Pipeline
from ffsuper.store.replies import Call

T = TypeVar("T")


class Connection:
    """The store as seen by one role: leases, work, or sweeps. Any number of tasks may call at the same time."""

    def __init__(self, pipeline: Pipeline | ClusterPipelines, timeout_s: float) -> None:
        self._pipeline = pipeline
        self._timeout_s = timeout_s

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
        """Carry out calls in their order, in one batch; calls of other tasks may come in between.

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

    async def run_where_reached(self, calls: Sequence[Call[T]]) -> list[T]:
        """As ``try_all``, of calls to one server each; leaves out those of servers that are away.

        Raises:
            StoreError: no server can be reached; or a failure of another kind.
        """
        results = await self.try_all(calls)
        failures = [result for result in results if isinstance(result, StoreError)]
        for failure in failures:
            if len(failures) == len(results) or not isinstance(failure, STORE_AWAY):
                raise failure
        return [result for result in results if not isinstance(result, StoreError)]

    async def _exchange(self, calls: Sequence[Call[Any]], timeout_s: float | None) -> list[Any]:
        if not calls:
            return []
        wanted_s = self._timeout_s if timeout_s is None else timeout_s
        return await self._pipeline.exchange([call.command for call in calls], wanted_s)

    async def nodes_of(self, keys: Sequence[str]) -> list[str]:
        """Name the node of a cluster that serves each key; all names are empty where there is no cluster.

        Raises:
            StoreError: the cluster cannot be asked.
        """
        if keys and self._pipeline.node_of(keys[0]) is None:
            await self.run(Call(("EXISTS", keys[0]), bool))
        return [self._pipeline.node_of(key) or "" for key in keys]


@asynccontextmanager
async def open_connection(settings: StoreConfig, role: str) -> AsyncIterator[Connection]:
    """Serve a connection while the block lasts. Nothing is connected before the first call.

    Args:
        role: shown by CLIENT LIST.
    """
    pipeline: Pipeline | ClusterPipelines
    name = f"ffsuper-{role}"
    if is_cluster(settings):
        pipeline = ClusterPipelines(settings, name)
    else:
        pipeline = Pipeline(settings, name)
        pipeline.start()
    try:
        yield Connection(pipeline, settings.timeout_s)
    finally:
        pipeline.stop()
