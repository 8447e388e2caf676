"""The library watcher in virtual time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from ffsuper.actors import library_watcher
from ffsuper.actors.library_watcher import INTERVAL_S
from ffsuper.errors import StoreError, StoreUnavailableError, StoreUnsuitableError


class Libraries:
    """What is found at each look, and when that was."""

    def __init__(self, *found: StoreError | None) -> None:
        self._found: Iterator[StoreError | None] = iter(found)
        self.looks = 0

    def require(self) -> None:
        self.looks += 1
        error = next(self._found)
        if error is not None:
            raise error


async def test_it_looks_until_the_libraries_will_not_do(autojump_clock: trio.testing.MockClock) -> None:
    away, unsuitable = StoreUnavailableError("away"), StoreUnsuitableError("version 6")
    libraries = Libraries(None, away, None, unsuitable)
    began_s = trio.current_time()
    with pytest.raises(StoreUnsuitableError, match="version 6"):
        await library_watcher.run(libraries.require)
    assert libraries.looks == 4
    assert trio.current_time() - began_s == pytest.approx(4 * INTERVAL_S)


async def test_it_is_cancelled_while_it_waits(mock_clock: trio.testing.MockClock) -> None:
    libraries = Libraries()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(library_watcher.run, libraries.require)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(INTERVAL_S - 0.1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (nursery.cancel_scope.cancelled_caught, libraries.looks) == (True, 0)


async def test_it_is_cancelled_while_a_store_does_not_answer(mock_clock: trio.testing.MockClock) -> None:
    answered, asked = threading.Event(), threading.Event()

    def hang() -> None:
        asked.set()
        answered.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(library_watcher.run, hang)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(INTERVAL_S)
        await trio.to_thread.run_sync(asked.wait)
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    assert not answered.is_set()
    answered.set()
