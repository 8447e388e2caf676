"""Probes are told how the worker is, however many ask; an address that cannot be had is named."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
import trio
import trio.testing

from ffsuper.actors import health
from ffsuper.actors.health import ASK_AGAIN_S, Desk, address_of, open_listener
from ffsuper.errors import ConfigError
from ffsuper.http1 import Answer
from ffsuper.messages import Offer
from ffsuper.sansio.ledger import Ledger
from ffsuper.sansio.pulse import Pulses
from ffsuper.standing import Standing, State
from tests.fakes import LANE, FakeStore

STUCK_S = 30.0


class Rig:
    """A worker that can be asked."""

    def __init__(self) -> None:
        self.store = FakeStore()
        pulses = Pulses(trio.current_time)
        self.standing = Standing(pulses, Ledger(), STUCK_S, Offer((LANE,), "", ("job",), 4), State.RUNNING)
        self.desk = Desk(self.standing, self.store.presence)

    async def ask(self, path: str) -> tuple[int, str]:
        """Return status and text."""
        answer: Answer = await self.desk.answer(path)
        return int(answer.status), answer.body.decode()

    async def get_stuck(self) -> None:
        self.standing.pulses.open("claimer")
        self.standing.pulses.open("scanner")
        await trio.sleep(STUCK_S + 1)


async def test_a_worker_that_works_lives_and_is_ready(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    assert [await rig.ask(path) for path in ("/livez", "/readyz")] == [(200, "ok\n"), (200, "ok\n")]


async def test_one_that_is_stuck_neither_lives_nor_is_ready_and_says_what_is_stuck(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    await rig.get_stuck()
    for path in ("/livez", "/readyz"):
        status, text = await rig.ask(path)
        assert (status, sorted(text.removeprefix("stuck: ").strip().split(", "))) == (503, ["claimer", "scanner"])


@pytest.mark.parametrize("state", [state for state in State if state is not State.RUNNING])
async def test_one_that_takes_on_no_work_lives_but_is_not_ready(
    state: State, autojump_clock: trio.testing.MockClock
) -> None:
    rig = Rig()
    rig.standing.state = state
    assert await rig.ask("/livez") == (200, "ok\n")
    assert await rig.ask("/readyz") == (503, f"{state.value}\n")
    assert rig.store.calls == []


async def test_without_the_store_it_lives_but_is_not_ready_until_the_store_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    rig.store.away = True
    assert await rig.ask("/livez") == (200, "ok\n")
    assert await rig.ask("/readyz") == (503, "store away\n")
    assert not rig.standing.store_answers
    rig.store.away = False
    await trio.sleep(ASK_AGAIN_S)
    assert await rig.ask("/readyz") == (200, "ok\n")
    assert rig.standing.store_answers


async def test_the_store_is_asked_once_a_second_however_many_ask_us(autojump_clock: trio.testing.MockClock) -> None:
    rig = Rig()
    for seconds in range(1, 4):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(rig.ask, "/readyz")
        assert rig.store.calls == ["answers"] * seconds
        await trio.sleep(ASK_AGAIN_S)


async def test_other_paths_are_not_there_and_the_first_page_names_those_that_are(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rig = Rig()
    status, index = await rig.ask("/")
    assert (status, index.split()[-3:]) == (200, ["/livez", "/readyz", "/metrics"])
    assert [(await rig.ask(path))[0] for path in ("/metrics/", "/livez/x", "//", "")] == [404] * 4


async def test_metrics_are_those_of_the_worker() -> None:
    rig = Rig()
    answer = await rig.desk.answer("/metrics")
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    assert b'ffsuper_worker_info{instance_id="worker-1"' in answer.body
    assert b"\nffsuper_slots 4.0\n" in answer.body


# --- over a network ---------------------------------------------------------------------------------------------


async def test_it_answers_at_its_address_until_it_is_cancelled() -> None:
    rig = Rig()
    listener = open_listener("127.0.0.1:0")
    assert listener is not None
    host, _, port = address_of(listener).rpartition(":")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(health.run, listener, rig.standing, rig.store.presence)
            for path, status in (("/readyz", b"200 OK"), ("/metrics", b"200 OK"), ("/x", b"404 Not Found")):
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    await stream.send_all(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                    answer = b"".join([bytes(data) async for data in stream])
                assert answer.startswith(b"HTTP/1.1 " + status)
            nursery.cancel_scope.cancel()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)))


# --- listening --------------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """Provide a port that somebody has."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener


def test_nothing_is_served_when_nothing_is_to_be() -> None:
    assert open_listener("") is None


def test_by_itself_it_finds_a_port_on_loopback_for_every_worker_of_a_host() -> None:
    first, second = open_listener("auto"), open_listener("auto")
    assert first is not None
    assert second is not None
    with first, second:
        addresses = {address_of(first), address_of(second)}
        assert len(addresses) == 2
        assert {address.rpartition(":")[0] for address in addresses} == {"127.0.0.1"}


def test_the_usual_port_being_taken_leads_to_another_one(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PORT", taken.getsockname()[1])
    listener = open_listener("auto")
    assert listener is not None
    with listener:
        assert listener.getsockname()[1] != taken.getsockname()[1]


def test_without_a_network_nothing_is_served_unless_an_address_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", refuse)
    assert open_listener("auto") is None
    assert [(one.levelno, one.message) for one in caplog.records] == [
        (logging.WARNING, "health and metrics are not served")
    ]
    with pytest.raises(ConfigError, match="Address family not supported"):
        open_listener("127.0.0.1:9464")


def test_an_address_that_is_taken_is_named(taken: socket.socket) -> None:
    address = address_of(taken)
    with pytest.raises(ConfigError) as raised:
        open_listener(address)
    advice = 'name another one, or "auto" for a free port'
    assert str(raised.value) == f"[status] listen: {address}: Address already in use: {advice}"


def test_a_port_that_takes_rights_is_no_good_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ConfigError, match=r": Permission denied: name a port above 1023$"):
        open_listener("127.0.0.1:80")


@pytest.mark.parametrize("address", ["no-such-host.invalid:9464", "203.0.113.7:9464"])
def test_an_address_that_is_not_ours_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match=rf"^\[status\] listen: {address}: \w+"):
        open_listener(address)


def test_an_address_may_be_of_version_6_or_a_name() -> None:
    listener = open_listener("localhost:0")
    assert listener is not None
    listener.close()
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    listener = open_listener("[::1]:0")
    assert listener is not None
    with listener:
        assert address_of(listener) == f"[::1]:{listener.getsockname()[1]}"


def test_a_port_is_had_again_at_once_after_a_restart() -> None:
    listener = open_listener("127.0.0.1:0")
    assert listener is not None
    address = address_of(listener)
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        listener.close()  # the connection outlives it, as one that is being closed does
        again = open_listener(address)
    assert again is not None
    again.close()
