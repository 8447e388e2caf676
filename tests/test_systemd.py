"""What systemd hears: every message on a real datagram socket; what goes wrong there never harms the program."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from ffsuper.messages import Completed
from ffsuper.systemd import INFINITE_USEC, PATIENCE_S, STATUS_CHARACTERS, Notifier
from tests.child.children import LIMIT_S, SETTINGS, ask, serving

# systemd reads so much of a message, and ignores one that is longer.
NOTIFY_BUFFER_BYTES = 4096
FORBIDDEN = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID")
SECRET = ("CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "INVOCATION_ID")


@pytest.fixture(params=["path", "abstract"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Provide what NOTIFY_SOCKET may be."""
    return f"@ffsuper-{uuid4()}" if request.param == "abstract" else str(tmp_path / "notify")


@contextlib.contextmanager
def listening(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.setblocking(False)
        yield receiver


@pytest.fixture
def systemd(name: str) -> Iterator[socket.socket]:
    with listening(name) as receiver:
        yield receiver


def notifier(name: str, **environ: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": name, **environ})


def heard(receiver: socket.socket) -> list[str]:
    """Return the messages that have come, oldest first."""
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(receiver.recv(NOTIFY_BUFFER_BYTES).decode())
    return messages


def fill(name: str) -> None:
    """Send until the receiver has no room left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect(name.replace("@", "\0", 1))
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(b"WATCHDOG=1")


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.message) for record in caplog.records]


def test_each_sign_is_one_message(systemd: socket.socket, name: str) -> None:
    one = notifier(name)
    one.ready("takes work from 2 lanes")
    one.status("3 running")
    one.watchdog()
    one.extend_timeout(1.5)
    one.stopping("draining")
    assert heard(systemd) == [
        "READY=1\nSTATUS=takes work from 2 lanes",
        "STATUS=3 running",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1\nSTATUS=draining",
    ]


def test_a_reload_is_told_with_its_time(systemd: socket.socket, name: str) -> None:
    before_usec = time.monotonic_ns() // 1000
    notifier(name).reloading("reading worker.toml again")
    (message,) = heard(systemd)
    reloading, monotonic, status = message.split("\n")
    assert (reloading, status) == ("RELOADING=1", "STATUS=reading worker.toml again")
    assert before_usec <= int(monotonic.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_a_status_can_be_nothing_but_a_status(systemd: socket.socket, name: str) -> None:
    notifier(name).status("one\nSTOPPING=1\r\n\ttwo ")
    assert heard(systemd) == ["STATUS=one STOPPING=1 two"]


@pytest.mark.parametrize("sign", ["x", "\N{PILE OF POO}", "\udcff"])
def test_no_status_is_too_long_or_too_odd_for_systemd(systemd: socket.socket, name: str, sign: str) -> None:
    notifier(name).ready(sign * 10_000)
    (message,) = heard(systemd)
    assert len(message.encode()) < NOTIFY_BUFFER_BYTES
    assert len(message) == len("READY=1\nSTATUS=") + STATUS_CHARACTERS


def test_without_systemd_nothing_is_sent_or_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one = Notifier({"WATCHDOG_USEC": "1000000"})
    one.ready("up")
    one.watchdog()
    assert one.watchdog_s is None
    assert told(caplog) == []


@pytest.mark.parametrize("name", ["vsock:2:1234", "relative/path", "@", "127.0.0.1:80"])
def test_a_socket_of_another_kind_is_told_once_and_left_alone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one = notifier(name, WATCHDOG_USEC="1000000")
    one.ready("up")
    one.watchdog()
    assert one.watchdog_s is None
    assert told(caplog) == [("INFO", "systemd will not be told anything: no unix socket")]


def test_a_socket_that_is_not_there_costs_only_the_message(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    one = notifier(name)
    one.watchdog()
    one.ready("up")
    assert told(caplog) == [
        ("DEBUG", "message to systemd lost"),
        ("DEBUG", "message to systemd lost"),
        ("WARNING", "systemd not told"),
    ]


def test_a_path_that_no_socket_can_have_costs_only_the_message(caplog: pytest.LogCaptureFixture) -> None:
    notifier("/" + "x" * 200).stopping("draining")
    assert told(caplog) == [("WARNING", "systemd not told")]


def test_a_systemd_that_was_started_again_hears_the_next_message(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    one = notifier(name)
    with listening(name) as first:
        one.status("one")
        assert heard(first) == ["STATUS=one"]
    one.status("lost")
    Path(name).unlink()
    with listening(name) as second:
        one.status("two")
        assert heard(second) == ["STATUS=two"]


def test_a_full_socket_keeps_no_sign_of_life_waiting(
    systemd: socket.socket, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fill(name)
    notifier(name).watchdog()
    notifier(name).status("lost")
    assert set(heard(systemd)) == {"WATCHDOG=1"}
    assert [record.__dict__["error"].errno for record in caplog.records] == [errno.EAGAIN, errno.EAGAIN]


def test_a_change_of_state_gives_up_on_a_socket_that_stays_full(
    systemd: socket.socket, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(name)
    began_s = time.monotonic()
    notifier(name).ready("up")
    assert time.monotonic() - began_s >= PATIENCE_S
    assert set(heard(systemd)) == {"WATCHDOG=1"}
    assert told(caplog) == [("WARNING", "systemd not told")]


def test_a_change_of_state_arrives_when_there_is_room_again(systemd: socket.socket, name: str) -> None:
    fill(name)
    systemd.settimeout(LIMIT_S)

    def read_all() -> str:
        while (message := systemd.recv(NOTIFY_BUFFER_BYTES)) == b"WATCHDOG=1":
            pass
        return message.decode()

    with ThreadPoolExecutor() as threads:
        message = threads.submit(read_all)
        notifier(name).stopping("draining")
        assert message.result() == "STOPPING=1\nSTATUS=draining"


@pytest.mark.parametrize(
    ("usec", "seconds"),
    [
        ("60000000", 60.0),
        ("500000", 0.5),
        ("0", None),
        ("", None),
        ("-5", None),
        ("1_000", None),
        ("1e6", None),
        ("½", None),
        ("soon", None),
        (str(INFINITE_USEC), None),
        ("9" * 5000, None),
    ],
)
def test_the_watchdog_limit_is_taken_if_it_is_one(usec: str, seconds: float | None) -> None:
    assert notifier("/run/systemd/notify", WATCHDOG_USEC=usec).watchdog_s == seconds


@pytest.mark.parametrize(
    ("pid", "seconds"),
    [(os.getpid(), 1.0), (os.getppid(), None), ("", None), ("me", None)],
    ids=["ours", "our parent's", "none", "no number"],
)
def test_the_watchdog_is_of_the_process_that_is_named(pid: object, seconds: float | None) -> None:
    assert notifier("@x", WATCHDOG_USEC="1000000", WATCHDOG_PID=str(pid)).watchdog_s == seconds


async def test_children_see_nothing_that_is_between_systemd_and_the_supervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in (*FORBIDDEN, *SECRET):
        monkeypatch.setenv(variable, "for the supervisor only")
    async with serving(replace(SETTINGS, environment={"MODE": "test"})) as server:
        child = await server.spawn()
        seen = await ask(child, "environment")
        await child.aclose()
    assert isinstance(seen, Completed)
    assert b'"MODE"' in seen.result
    assert not [variable for variable in (*FORBIDDEN, *SECRET) if variable.encode() in seen.result]
