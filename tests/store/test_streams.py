"""Following the output of an execution, on a real store."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis

from ffsuper.config import StoreConfig
from ffsuper.messages import FINAL_STATES, ExecutionId
from ffsuper.store import streams
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.wire import Command, ServerWire

# Of the reads that do not wait, so many are enough for anything here.
MOST_READS = 20


class Output:
    """What an execution has put out so far."""

    def __init__(self, store: redis.Redis) -> None:
        self.execution = ExecutionId(f"{{fp:7}}:{uuid.uuid4()}")
        self.keys = ExecutionKeys.of(self.execution)
        self._store = store

    def begin(self, index: int) -> None:
        fields: dict[Any, Any] = {"total_attempt_count": index + 1, "public_state": "active"}
        self._store.hset(self.keys.core, mapping=fields)

    def put(self, index: int, payload: str) -> None:
        self._store.xadd(self.keys.stream(index), {"payload": payload})

    def close(self, index: int, state: str) -> None:
        self._store.hset(self.keys.stream_meta(index), "closed_at", "1700")
        self._store.hset(self.keys.core, "public_state", state)


class Watched(ServerWire):
    """Tells of the reads that wait; before the first of them, something happens."""

    def __init__(self, settings: StoreConfig, happens: Callable[[], None]) -> None:
        super().__init__(settings, "test")
        self.awaited: list[str] = []
        self._happens = happens
        self._reads = 0

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        for command in commands:
            if "BLOCK" in command:
                self.awaited.append(str(command[-2]))
                if len(self.awaited) == 1:
                    self._happens()
            else:
                self._reads += 1
                assert self._reads < MOST_READS, "it looks in vain again and again"
        return super().exchange(commands)


@pytest.fixture
def output(settings: StoreConfig) -> Iterator[Output]:
    with redis.Redis.from_url(settings.url) as store:
        yield Output(store)


def followed(wire: Watched, output: Output, *, live: bool = True) -> list[bytes]:
    frames = streams.follow_stored(wire, output.execution, live, FINAL_STATES.__contains__)
    try:
        return [frame.payload for frame in frames]
    finally:
        wire.close()


def test_the_next_attempts_first_frame_is_waited_for_once_the_stream_is_closed(
    settings: StoreConfig, output: Output
) -> None:
    def goes_on() -> None:
        output.begin(1)
        output.put(1, "second")
        output.close(1, "completed")

    output.begin(0)
    output.put(0, "first")
    output.close(0, "delayed")
    wire = Watched(settings, goes_on)
    assert followed(wire, output) == [b"first", b"second"]
    assert wire.awaited == [output.keys.stream(1)]


def test_an_execution_that_ends_between_attempts_ends_its_tail(settings: StoreConfig, output: Output) -> None:
    output.begin(0)
    output.close(0, "delayed")
    wire = Watched(settings, lambda: output.close(0, "cancelled"))
    assert followed(wire, output) == []
    assert wire.awaited == [output.keys.stream(1)]


def test_an_open_stream_is_waited_for_until_it_is_closed(settings: StoreConfig, output: Output) -> None:
    def goes_on() -> None:
        output.put(0, "second")
        output.close(0, "completed")

    output.begin(0)
    output.put(0, "first")
    wire = Watched(settings, goes_on)
    assert followed(wire, output) == [b"first", b"second"]
    assert set(wire.awaited) == {output.keys.stream(0)}


@pytest.mark.parametrize(("live", "state"), [(True, "failed"), (False, "delayed"), (False, "active")])
def test_nothing_is_waited_for_when_all_is_over_or_nobody_follows(
    live: bool, state: str, settings: StoreConfig, output: Output
) -> None:
    output.begin(0)
    output.put(0, "first")
    output.close(0, "delayed")
    output.begin(1)
    output.put(1, "second")
    if state != "active":
        output.close(1, state)
    wire = Watched(settings, lambda: None)
    assert followed(wire, output, live=live) == [b"first", b"second"]
    assert wire.awaited == []
