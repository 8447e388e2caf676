"""What a pipeline does with its connection: batches that overlap, losses, TLS, replicas."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import hiredis
import pytest
import trio

from ffsuper.config import StoreConfig
from ffsuper.errors import OutcomeUnknownError, StoreUnavailableError
from ffsuper.store import pipeline
from ffsuper.store.connection import Connection, open_connection
from ffsuper.store.replies import Call, Part
from tests.redis_server import running_server
from tests.store.test_urls import free_port, tls_options


def plain(*command: Part) -> Call[object]:
    return Call(command, lambda reply: reply)


@dataclass
class Scripted:
    """A server that says what a test lets it say.

    Attributes:
        heard: commands, in their order, without those of the handshake.
        connections: those that are open or were.
    """

    heard: list[list[bytes]] = field(default_factory=list)
    connections: list[trio.SocketStream] = field(default_factory=list)
    _news: trio.Event = field(default_factory=trio.Event)

    async def serve(self, client: trio.SocketStream) -> None:
        self.connections.append(client)
        reader = hiredis.Reader()
        with contextlib.suppress(trio.ClosedResourceError):  # a test has closed it
            async for data in client:
                reader.feed(bytes(data))
                while (command := reader.gets()) is not False:
                    if command[0] == b"CLIENT":
                        await client.send_all(b"+OK\r\n")
                    else:
                        self.heard.append(command)
                        self._news.set()

    async def wait_heard(self, count: int) -> None:
        """Wait until so many commands have come."""
        while len(self.heard) < count:
            self._news = trio.Event()
            await self._news.wait()

    async def say(self, data: bytes) -> None:
        """Send replies on the latest connection."""
        await self.connections[-1].send_all(data)


@asynccontextmanager
async def scripted(folder: Path, timeout_s: float = 5.0) -> AsyncIterator[tuple[Scripted, Connection]]:
    server, path = Scripted(), folder / "scripted.sock"
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, server.serve, [trio.SocketListener(listening)])
            async with open_connection(StoreConfig(url=f"unix://{path}", timeout_s=timeout_s), "test") as connection:
                yield server, connection
            nursery.cancel_scope.cancel()


async def test_a_batch_is_sent_though_an_earlier_one_is_not_answered(tmp_path: Path) -> None:
    async with scripted(tmp_path) as (server, connection):
        answers: dict[int, object] = {}

        async def ask(number: int) -> None:
            answers[number] = await connection.run(plain("ECHO", str(number)))

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(ask, number)
                await server.wait_heard(number + 1)
            assert answers == {}
            await server.say(b"+zero\r\n+o")
            await server.say(b"ne\r\n+two\r\n")
        assert answers == {0: b"zero", 1: b"one", 2: b"two"}


async def test_what_is_asked_in_one_step_goes_as_one_batch(tmp_path: Path) -> None:
    async with scripted(tmp_path) as (server, connection), trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(connection.run, plain("ECHO", str(number)))
        await server.wait_heard(50)
        await server.say(b"+a\r\n" * 49)
        with trio.move_on_after(0.05):
            await trio.sleep_forever()
        assert len(nursery.child_tasks) == 50, "answered when the batch is whole"
        await server.say(b"+a\r\n")


async def test_a_loss_leaves_all_in_doubt_that_was_sent_and_is_mended_at_the_next_call(tmp_path: Path) -> None:
    async with scripted(tmp_path) as (server, connection):
        results: dict[int, list[object]] = {}

        async def ask(number: int) -> None:
            results[number] = await connection.try_all([plain("ECHO", f"{number}a"), plain("ECHO", f"{number}b")])

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(ask, number)
                await server.wait_heard(2 * (number + 1))
            await server.say(b"+first\r\n")
            await server.connections[0].aclose()
        assert results[0][0] == b"first"
        assert [type(result) for result in (results[0][1], *results[1])] == [OutcomeUnknownError] * 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run, plain("ECHO", "again"))
            await server.wait_heard(5)
            await server.say(b"+again\r\n")
        assert len(server.connections) == 2


async def test_a_server_that_owes_an_answer_for_too_long_is_connected_to_anew(tmp_path: Path) -> None:
    async with scripted(tmp_path, timeout_s=3.0) as (server, connection):
        (result,) = await connection.try_all([plain("ECHO", "lost")])
        assert isinstance(result, OutcomeUnknownError)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run, plain("ECHO", "again"), 15.0)
            await server.wait_heard(2)
            await server.say(b"+again\r\n")
        assert len(server.connections) == 2


async def test_a_caller_with_less_patience_costs_the_others_nothing(tmp_path: Path) -> None:
    async with scripted(tmp_path) as (server, connection):
        (hasty,) = await connection.try_all([plain("ECHO", "hasty")], timeout_s=0.05)
        assert isinstance(hasty, OutcomeUnknownError)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run, plain("ECHO", "patient"))
            await server.wait_heard(2)
            await server.say(b"+hasty\r\n+patient\r\n")
        assert len(server.connections) == 1


@pytest.mark.parametrize("error", [b"-READONLY it is a replica now", b"-NOAUTH the password has changed"])
async def test_after_an_error_that_another_connection_may_be_spared_there_is_another(
    error: bytes, tmp_path: Path
) -> None:
    async with scripted(tmp_path) as (server, connection):
        results: list[object] = []

        async def ask() -> None:
            results.extend(await connection.try_all([plain("SET", "key", "value"), plain("ECHO", "behind")]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await server.wait_heard(2)
            await server.say(error + b"\r\n+behind\r\n")
        assert isinstance(results[0], Exception)
        assert results[1] == b"behind"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run, plain("ECHO", "again"))
            await server.wait_heard(3)
            await server.say(b"+again\r\n")
        assert len(server.connections) == 2


async def test_who_still_waits_when_the_connection_is_given_up_is_told(tmp_path: Path) -> None:
    results: list[object] = []
    async with trio.open_nursery() as nursery, scripted(tmp_path) as (server, connection):

        async def ask() -> None:
            results.extend(await connection.try_all([plain("ECHO", "late")]))

        nursery.start_soon(ask)
        await server.wait_heard(1)
    assert isinstance(results[0], OutcomeUnknownError)


async def test_what_is_no_reply_ends_the_connection(tmp_path: Path) -> None:
    async with scripted(tmp_path) as (server, connection):
        results: list[object] = []

        async def ask() -> None:
            results.extend(await connection.try_all([plain("ECHO", "x")]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await server.wait_heard(1)
            await server.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert isinstance(results[0], OutcomeUnknownError)


async def test_large_calls_and_replies_pass_through_tls_side_by_side(tmp_path: Path, certificates: Path) -> None:
    port = free_port()
    with running_server(tmp_path, *tls_options(port, certificates, "no")):
        settings = StoreConfig(url=f"rediss://localhost:{port}/0", tls_ca_file=certificates / "ca.crt")
        async with open_connection(settings, "test") as connection, trio.open_nursery() as nursery:

            async def ask(number: int) -> None:
                large = bytes([number]) * 3_000_000
                assert await connection.run(plain("ECHO", large)) == large

            for number in range(8):
                nursery.start_soon(ask, number)


async def test_what_too_few_replicas_have_is_in_doubt_and_what_only_reads_is_not(settings: StoreConfig) -> None:
    careful = replace(settings, wait_replicas=1, timeout_s=2.0)
    async with open_connection(careful, "test") as connection:
        assert await connection.run(plain("GET", "nothing")) is None
        with pytest.raises(OutcomeUnknownError, match="0 of 1 replicas"):
            await connection.run(plain("SET", "careful", "1"))
        assert await connection.run(plain("GET", "careful")) == b"1"


async def test_nothing_is_connected_to_before_the_first_call_nor_tried_more_often_than_asked(tmp_path: Path) -> None:
    async with open_connection(StoreConfig(url=f"unix://{tmp_path}/none.sock"), "test") as connection:
        results = await connection.try_all([plain("PING"), plain("PING")])
        assert [type(result) for result in results] == [StoreUnavailableError] * 2


MISSING = b"-ERR Function not found\r\n"


async def test_replies_of_a_lost_connection_reach_nobody_on_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored = threading.Event()
    monkeypatch.setattr(pipeline, "restore_library", lambda *_: restored.wait(10))
    async with scripted(tmp_path, timeout_s=3.0) as (server, connection), trio.open_nursery() as nursery:
        results: dict[str, list[object]] = {}

        answered = trio.Event()

        async def ask(name: str) -> None:
            results[name] = await connection.try_all([plain("ECHO", name)], timeout_s=None if name == "old" else 10.0)
            if name == "missing":
                answered.set()

        nursery.start_soon(ask, "missing")
        await server.wait_heard(1)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(ask, "old")
            await server.wait_heard(2)
            await server.say(MISSING + b"+old\r\n")
        assert isinstance(results["old"][0], OutcomeUnknownError)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(ask, "new")
            await server.wait_heard(3)
            restored.set()
            await answered.wait()
            await server.say(b"+new\r\n")
        assert results["new"] == [b"new"]


async def test_a_library_that_cannot_be_loaded_fails_the_calls_that_miss_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailableError("it went away")

    monkeypatch.setattr(pipeline, "restore_library", fail)
    async with scripted(tmp_path) as (server, connection):
        results: list[object] = []

        async def ask() -> None:
            results.extend(await connection.try_all([plain("INCR", "counter"), plain("FCALL", "missing", 0)]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await server.wait_heard(2)
            await server.say(b":1\r\n" + MISSING)
        assert results[0] == 1
        assert isinstance(results[1], StoreUnavailableError)
