"""Pipelines to all servers of a cluster: every command goes to the server that has its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreError
from ffsuper.store.cluster import NO_SERVER, SLOTS_OF, Address, Errand, Leg, Routes, server_settings
from ffsuper.store.pipeline import Pipeline
from ffsuper.store.wire import Command


class ClusterPipelines:
    """Does for a cluster what a Pipeline does for a server."""

    def __init__(self, settings: StoreConfig, name: str) -> None:
        self._settings = settings
        self._name = name
        self._pipelines: dict[Address, Pipeline] = {}
        self._routes = Routes(settings)
        self._refreshing = trio.Lock()

    async def exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """See ``Pipeline``; the time is for each server in turn."""
        try:
            await self._refresh(timeout_s)
        except StoreError as error:
            return [error] * len(commands)
        errand = Errand(commands, self._routes)
        while legs := errand.legs():
            if len(legs) == 1:
                await self._go(errand, legs[0], timeout_s)
                continue
            async with trio.open_nursery() as nursery:
                for leg in legs:
                    nursery.start_soon(self._go, errand, leg, timeout_s)
        return errand.replies

    async def _go(self, errand: Errand, leg: Leg, timeout_s: float) -> None:
        errand.note(leg, await self._pipeline(leg.address).exchange(leg.sent, timeout_s))

    def node_of(self, key: str) -> str | None:
        """Name the server that has a key; None while that is not known, which it is after an exchange."""
        return self._routes.node_of(key)

    def stop(self) -> None:
        """See ``Pipeline``."""
        for pipeline in self._pipelines.values():
            pipeline.stop()

    def _pipeline(self, address: Address) -> Pipeline:
        if address not in self._pipelines:
            self._pipelines[address] = Pipeline(server_settings(self._settings, address), self._name)
            self._pipelines[address].start()
        return self._pipelines[address]

    async def _refresh(self, timeout_s: float) -> None:
        """Ask for the slots, if they are not known or have changed.

        Raises:
            StoreError: no server answers, or none of those that do knows who has all slots.
        """
        if not self._routes.is_stale:
            return
        async with self._refreshing:
            if self._routes.is_stale:
                await self._ask_for_slots(timeout_s)

    async def _ask_for_slots(self, timeout_s: float) -> None:
        failure: StoreError = NO_SERVER
        for address in self._routes.to_ask:
            (slots,) = await self._pipeline(address).exchange([SLOTS_OF], timeout_s)
            try:
                self._routes.learn(slots, address)
            except StoreError as error:
                failure = error
                continue
            for gone in set(self._pipelines) - self._routes.addresses:
                self._pipelines.pop(gone).stop()
            return
        raise failure
