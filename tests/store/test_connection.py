"""A connection against a real server."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis
import trio

from ffsuper.config import StoreConfig
from ffsuper.errors import (
    LibraryMissingError,
    OutcomeUnknownError,
    StoreAccessError,
    StoreScriptError,
    StoreUnavailableError,
)
from ffsuper.store import libraries
from ffsuper.store.connection import open_connection
from ffsuper.store.pipeline import MAX_BATCH_COMMANDS
from ffsuper.store.replies import Call, Part
from tests.proxy import running_proxy
from tests.redis_server import running_server


def plain(*command: Part) -> Call[object]:
    return Call(command, lambda reply: reply)


async def test_calls_are_answered_in_their_order(settings: StoreConfig) -> None:
    async with open_connection(settings, "test") as connection:
        assert await connection.run(plain("ECHO", "one")) == b"one"
        assert await connection.run_all([plain("ECHO", str(number)) for number in range(3)]) == [b"0", b"1", b"2"]
        assert await connection.run_all([]) == []


async def test_any_bytes_travel_unchanged(settings: StoreConfig) -> None:
    every_byte = bytes(range(256)) * 3
    async with open_connection(settings, "test") as connection:
        assert await connection.run(plain("ECHO", every_byte)) == every_byte


async def test_what_is_no_text_goes_with_question_marks_and_disturbs_no_other(
    settings: StoreConfig,
) -> None:
    async with open_connection(settings, "test") as connection:
        sent = ["good", "bad \udcff\ud800", "ä"]
        assert await connection.run_all([plain("ECHO", text) for text in sent]) == [b"good", b"bad ??", "ä".encode()]


async def test_a_command_that_is_none_ends_who_asked_and_no_other(settings: StoreConfig) -> None:
    async with open_connection(settings, "test") as connection:
        with pytest.raises(TypeError, match="must be str, int, float or bytes"):
            await connection.run(plain("ECHO", None))  # type: ignore[arg-type]
        assert await connection.run(plain("ECHO", "one")) == b"one"


async def test_many_tasks_share_a_connection_and_each_gets_its_own_answers(settings: StoreConfig) -> None:
    answers: dict[int, object] = {}
    async with open_connection(settings, "test") as connection, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            answers[number] = await connection.run(plain("ECHO", str(number)))

        for number in range(2 * MAX_BATCH_COMMANDS):
            nursery.start_soon(ask, number)
    assert answers == {number: str(number).encode() for number in range(2 * MAX_BATCH_COMMANDS)}


async def test_an_error_reply_spoils_its_own_call_only(settings: StoreConfig) -> None:
    async with open_connection(settings, "test") as connection:
        results = await connection.try_all([plain("ECHO", "a"), plain("HGET", "no"), plain("ECHO", "b")])
        assert [results[0], results[2]] == [b"a", b"b"]
        assert isinstance(results[1], StoreScriptError)
        with pytest.raises(StoreScriptError):
            await connection.run_all([plain("ECHO", "a"), plain("HGET", "no")])


async def test_a_cancelled_call_never_leaves_the_connection_half_read(settings: StoreConfig) -> None:
    async with open_connection(settings, "test") as connection:
        for number in range(50):
            with trio.move_on_after(0.0002):
                await connection.run(plain("ECHO", f"cancelled {number}"))
            assert await connection.run(plain("ECHO", f"kept {number}")) == f"kept {number}".encode()


async def test_a_call_cancelled_before_it_was_sent_is_not_carried_out(settings: StoreConfig) -> None:
    async with open_connection(settings, "test") as connection:
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.run(plain("SET", "cancelled-early", "1"))
        assert await connection.run(plain("GET", "cancelled-early")) is None


async def test_a_server_that_is_not_there_is_unavailable_and_nothing_was_sent(tmp_path: Path) -> None:
    async with open_connection(StoreConfig(url=f"unix://{tmp_path}/none.sock"), "test") as connection:
        with pytest.raises(StoreUnavailableError, match="cannot reach the store"):
            await connection.run(plain("PING"))


async def test_an_answer_lost_after_sending_is_an_unknown_outcome_that_reading_back_resolves(
    server_url: str, tmp_path: Path
) -> None:
    async with (
        running_proxy(tmp_path, Path(server_url.removeprefix("unix://"))) as proxy,
        open_connection(StoreConfig(url=proxy.url), "test") as connection,
    ):
        await connection.run(plain("DEL", "counter"))
        proxy.lose_reply_to = lambda request: b"INCR" in request
        with pytest.raises(OutcomeUnknownError):
            await connection.run(plain("INCR", "counter"))
        assert await connection.run(plain("GET", "counter")) == b"1"


@contextmanager
def stopped(process_id: int) -> Iterator[None]:
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


async def test_a_server_that_hangs_gives_an_unknown_outcome_in_time_and_is_used_again(settings: StoreConfig) -> None:
    quick = replace(settings, timeout_s=0.2)
    async with open_connection(quick, "test") as connection:
        info = await connection.run(Call(("INFO", "server"), lambda reply: bytes(reply).decode()))
        pid = int(info.split("process_id:")[1].split()[0])
        with stopped(pid), pytest.raises((OutcomeUnknownError, StoreUnavailableError)):
            await connection.run(plain("PING"))
        with trio.fail_after(10):
            while True:
                try:
                    assert await connection.run(plain("ECHO", "back")) == b"back"
                    break
                except (OutcomeUnknownError, StoreUnavailableError):
                    continue


async def test_a_restarted_server_is_found_again_without_an_unknown_outcome(tmp_path: Path) -> None:
    settings = StoreConfig(url=f"unix://{tmp_path}/redis.sock")
    async with open_connection(settings, "test") as connection:
        with running_server(tmp_path):
            assert await connection.run(plain("ECHO", "first")) == b"first"
        with running_server(tmp_path):
            assert await connection.run(plain("ECHO", "second")) == b"second"


async def test_a_wrong_password_is_an_access_error(tmp_path: Path) -> None:
    with running_server(tmp_path, "--requirepass", "right") as url:
        for password in ("", "wrong"):
            async with open_connection(StoreConfig(url=url, password=password), "test") as connection:
                with pytest.raises(StoreAccessError):
                    await connection.run(plain("PING"))
        async with open_connection(StoreConfig(url=url, password="right"), "test") as connection:
            assert await connection.run(plain("ECHO", "in")) == b"in"


async def test_a_lost_library_is_loaded_again(settings: StoreConfig, server_url: str) -> None:
    async with open_connection(settings, "test") as connection:
        with redis.Redis.from_url(server_url) as other:
            other.function_flush()
        with pytest.raises(LibraryMissingError):
            await connection.run(plain("FCALL", "ff_version", 0))
        assert await connection.run(plain("FCALL", "ff_version", 0)) == libraries.PROTOCOL_VERSION


async def test_where_loading_is_forbidden_a_lost_library_stays_lost(settings: StoreConfig, server_url: str) -> None:
    async with open_connection(replace(settings, library="never"), "test") as connection:
        with redis.Redis.from_url(server_url) as other:
            other.function_flush()
        for _ in range(2):
            with pytest.raises(LibraryMissingError):
                await connection.run(plain("FCALL", "ff_version", 0))


def endless_script(url: str) -> socket.socket:
    """Start a script that does not end; its connection is answered once it is killed."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(url.removeprefix("unix://"))
    client.sendall(b'EVAL "while true do end" 0\r\n')
    return client


async def test_a_busy_server_refuses_without_carrying_out(tmp_path: Path) -> None:
    with running_server(tmp_path, "--busy-reply-threshold", "1") as url:
        async with open_connection(StoreConfig(url=url), "test") as connection:
            await connection.run(plain("PING"))
            with endless_script(url) as endless, trio.fail_after(10):
                tries = 0
                while True:
                    tries += 1
                    (result,) = await connection.try_all([plain("SET", f"try-{tries}", "1")])
                    if isinstance(result, StoreUnavailableError):
                        break
                await connection.try_all([plain("SCRIPT", "KILL")])
                assert endless.recv(64).startswith(b"-")
            assert await connection.run(plain("EXISTS", f"try-{tries}")) == 0
