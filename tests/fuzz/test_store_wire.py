"""Whatever bytes come from a server, and wherever a cluster sends to: replies or StoreErrors, and it goes on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.config import StoreConfig
from ffsuper.errors import OutcomeUnknownError, StoreError, StoreUnavailableError
from ffsuper.messages import LaneId
from ffsuper.store.announcements import ELIGIBLE, open_wake_ups
from ffsuper.store.cluster import SLOTS, Errand, Routes, server_settings
from ffsuper.store.connection import open_connection
from ffsuper.store.replies import Call, ElsewhereError
from ffsuper.store.wire import ServerWire
from tests.fuzz.examples import fuzz
from tests.fuzz.replies import ANY_REPLY, BYTES
from tests.fuzz.values import damaged

CLUSTER = StoreConfig(url="redis+cluster://one:6379,two:6379")
ERRORS = st.sampled_from(
    (
        *(
            "ERR x",
            "MOVED",
            "MOVED 1",
            "MOVED 1 x",
            "MOVED x y:1",
            "MOVED 1 a:b",
            "MOVED 1 :1",
            "MOVED 99999 a:1",
            "MOVED 1 ::1:1",
        ),
        *(
            "ASK",
            "ASK 1 a:1",
            "ASK 1 ?:1",
            "TRYAGAIN x",
            "CLUSTERDOWN x",
            "BUSY x",
            "LOADING x",
            "NOAUTH x",
            "NOPERM x",
        ),
        *(
            "WRONGPASS x",
            "READONLY x",
            "MISCONF x",
            "NOREPLICAS x",
            "OOM x",
            "NOSCRIPT x",
            "EXECABORT x",
            "UNKILLABLE",
            "",
        ),
        *(
            "ERR Function not found",
            "WRONGTYPE x",
            "ERR max number of clients reached",
            "invalid username-password pair",
            "-",
        ),
    )
) | st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
LIMIT_S = 20.0
QUICK_S = 2.0
HANDSHAKE = b"+OK\r\n" * 3
ASKED = (b"GET", b"SUBSCRIBE")


def resp(reply: Any) -> bytes:
    """Return a reply as a server writes it; texts are errors."""
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case str():
            return b"-%b\r\n" % reply.encode()
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(resp, reply))


SAID = st.lists(ANY_REPLY | ERRORS, max_size=4).map(lambda replies: b"".join(map(resp, replies)))
STRANGE = st.sampled_from(
    (
        *(
            b"+OK\n",
            b"?\r\n",
            b"*-1\r\n",
            b"*1\r\n" * 12,
            b"$-2\r\n",
            b"$99999999999\r\nx",
            b"*2147483647\r\n",
            b"*1\r\n>2147483647\r\n",
            b"%1\r\n+a\r\n+b\r\n",
            b",nan\r\n",
        ),
        *(
            b">2\r\n+push\r\n:1\r\n",
            b"(1\r\n",
            b"_\r\n",
            b"#t\r\n",
            b"=5\r\ntxt:x\r\n",
            b":x\r\n",
            b":" + b"9" * 99 + b"\r\n",
        ),
    )
)
BYTES_SAID = st.builds(b"".join, st.lists(SAID | STRANGE | SAID.flatmap(damaged), max_size=3))


class Server:
    """Says what it is told to say to whoever asks it for something, and then nothing more."""

    def __init__(self, path: Path) -> None:
        self.said = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        # Nothing is loaded: that would need a connection beside the one that is served.
        self.settings = StoreConfig(url=f"unix://{path}", timeout_s=5.0, library="never")

    def run(self) -> None:
        """Serve one after the other, until closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.sendall(HANDSHAKE)
                    heard = b""
                    while not any(map(heard.__contains__, ASKED)) and (part := connection.recv(1 << 16)):
                        heard += part
                    connection.sendall(self.said)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass
                except OSError:
                    continue

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder / "strange.sock")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("wire")) as server:
        yield server


@fuzz(150)
@given(said=BYTES_SAID)
@example(said=b"-MOVED 1 x\r\n")
@example(said=b"*1\r\n-MOVED 1\r\n")
@example(said=b"+OK\r\n" * 9)
@example(said=b"-ASK\r\n:1\r\n")
@example(said=b"*2147483647\r\n")
def test_a_wire_gives_replies_or_store_errors_for_any_bytes(server: Server, said: bytes) -> None:
    server.said = said
    wire = ServerWire(server.settings, "test")
    try:
        replies = wire.exchange([("PING",), ("GET", "a"), ("GET", "b")])
        assert len(replies) == 3
    except StoreError:
        return
    finally:
        wire.close()


@fuzz(150)
@given(said=BYTES_SAID)
@example(said=b"-MOVED 1 x\r\n")
@example(said=b"*1\r\n-MOVED 1\r\n")
@example(said=b"+OK\r\n" * 9)
@example(said=b"-ASK\r\n:1\r\n")
@example(said=b"*2147483647\r\n")
def test_a_connection_gives_replies_or_store_errors_for_any_bytes_and_goes_on(server: Server, said: bytes) -> None:
    async def ask() -> None:
        async with open_connection(server.settings, "test") as connection:
            for _ in range(2):
                answers = await connection.try_all([Call(("GET", name), lambda reply: reply) for name in "abc"])
                assert len(answers) == 3
            server.said = b"$4\r\ndone\r\n"
            # The connection that something strange came by is given up, at the latest when it is used again.
            heard = [await connection.try_all([Call(("GET", "a"), lambda reply: reply)]) for _ in range(4)]
            assert [b"done"] in heard

    server.said = said
    trio.run(ask)


@pytest.mark.parametrize("said", [b"?\r\n", b"*2147483647\r\n"])
def test_a_wire_to_a_server_that_talks_nonsense_takes_another_connection_for_what_comes_next(
    server: Server, said: bytes
) -> None:
    server.said = said
    wire = ServerWire(server.settings, "test")
    try:
        began_s = time.process_time()
        (lost,) = wire.exchange([("GET", "a")])
        assert isinstance(lost, OutcomeUnknownError)
        server.said = b":7\r\n"
        assert wire.exchange([("GET", "a")]) == [7]
        assert time.process_time() - began_s < QUICK_S
    finally:
        wire.close()


def test_a_connection_to_a_server_that_announces_too_much_is_given_up_at_once(server: Server) -> None:
    async def ask() -> None:
        async with open_connection(server.settings, "test") as connection:
            (lost,) = await connection.try_all([Call(("GET", "a"), lambda reply: reply)])
            assert isinstance(lost, OutcomeUnknownError)
            assert "a reply of more than 16777216 elements" in str(lost)
            server.said = b":7\r\n"
            assert await connection.run(Call(("GET", "a"), lambda reply: reply)) == 7

    server.said = b"*2147483647\r\n"
    began_s = time.process_time()
    trio.run(ask)
    assert time.process_time() - began_s < QUICK_S


LANE = LaneId("default")
CHANNEL = f"{ELIGIBLE}{LANE}".encode()
MESSAGES = st.one_of(
    ANY_REPLY,
    st.builds(
        lambda kind, channel, data: [kind, channel, data],
        st.sampled_from((b"message", b"subscribe", b"pong")),
        ANY_REPLY,
        ANY_REPLY,
    ),
    st.builds(lambda data: [b"message", CHANNEL, data], BYTES | ANY_REPLY),
)


@fuzz(100)
@given(messages=st.lists(MESSAGES, max_size=4))
@example(messages=[[b"message", CHANNEL, b"9" * 5_000]])
@example(messages=[7])
@example(messages=[[b"message", b"another", b"7"]])
@example(messages=[[b"message", CHANNEL, None]])
def test_whatever_is_announced_what_comes_next_is_heard(server: Server, messages: list[Any]) -> None:
    async def listen() -> None:
        with trio.fail_after(LIMIT_S):
            async with open_wake_ups(server.settings, [LANE]) as places:
                while await places.receive() != (LANE, 65_535):
                    pass

    server.said = b"".join(map(resp, [[b"subscribe", CHANNEL, 1], *messages, [b"message", CHANNEL, b"65535"]]))
    trio.run(listen)


# --- clusters -----------------------------------------------------------------------------------------------------


HOSTS = (
    st.sampled_from(
        (b"", b"?", b"a", b"::1", b"[::1]", b"a b", b"a/b", b"u:p@a", b"\xff", b"a..b", b"a:1", b"10.0.0.1", None)
    )
    | BYTES
)
PORTS: st.SearchStrategy[Any] = st.sampled_from((6379, 0, -1, 65536, None, b"6379", b"x", [])) | st.integers(
    0, 70_000
)
NODES = st.builds(
    lambda host, port, more: [host, port, *more], HOSTS, PORTS, st.just([]) | st.lists(ANY_REPLY, max_size=2)
)
RANGES = st.sampled_from(((0, SLOTS - 1), (0, 8191), (8192, SLOTS - 1), (-1, 5), (5, 2**40), (7, 3))) | st.tuples(
    st.integers(-2, SLOTS), st.integers(-2, 2 * SLOTS)
)
MAPS = st.lists(
    st.builds(lambda slots, nodes: [*slots, *nodes], RANGES, st.lists(NODES | ANY_REPLY, max_size=3)), max_size=3
)


@fuzz(300)
@given(reply=MAPS | ANY_REPLY)
@example(reply=[[0, SLOTS - 1, [b"?", 6379]]])
@example(reply=[[0, SLOTS - 1, [b"a", 6379], [b"", 0]]])
@example(reply=[[0, 2**40, [b"a", 6379]]])
@example(reply=[[0, SLOTS - 1, [b"\xff", 6379]]])
@example(reply=[[0, SLOTS - 1, [2**45, 6379]]])
def test_any_answer_about_slots_is_a_map_that_can_be_used_or_a_store_error(reply: Any) -> None:
    routes = Routes(CLUSTER)
    try:
        routes.learn(reply, "one:6379")
    except StoreError:
        assert routes.is_stale
        return
    for address in routes.to_ask:
        assert server_settings(CLUSTER, address).url == f"redis://{address}"
    assert routes.of(("GET", "a")) in routes.addresses


@fuzz(300)
@given(
    addresses=st.lists(
        st.builds("{}:{}".format, HOSTS.map(lambda host: (host or b"").decode(errors="replace")), PORTS),
        min_size=1,
        max_size=3,
    ),
    is_moved=st.booleans(),
)
@example(addresses=["::1:6379"], is_moved=True)
@example(addresses=[":6380"], is_moved=True)
@example(addresses=["?:6379"], is_moved=False)
def test_wherever_a_command_is_sent_it_goes_there_or_fails(addresses: list[str], is_moved: bool) -> None:
    routes = Routes(CLUSTER)
    routes.learn([[0, SLOTS - 1, [b"one", 6379]]], "one:6379")
    errand = Errand([("GET", "a")], routes)
    turns = 0
    for address in [*addresses, ""]:
        for leg in errand.legs():
            turns += 1
            assert server_settings(CLUSTER, leg.address).url.endswith(leg.address)
            answers: Sequence[Any] = [ElsewhereError("moved", address, is_moved=is_moved)] * len(leg.sent)
            errand.note(leg, answers)
    assert turns
    assert isinstance(errand.replies[0], StoreUnavailableError)
