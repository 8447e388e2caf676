"""Loading the libraries into a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreUnsuitableError
from ffsuper.store import libraries
from ffsuper.store.libraries import FFSUPER, FLOWFABRIC, Mark
from ffsuper.store.wire import ServerWire, Wire
from tests.redis_server import running_server

FOREIGN = "#!lua name=flowfabric\nredis.register_function('ff_version', function() return '{version}' end)"


@pytest.fixture
def wire(settings: StoreConfig, server_url: str) -> Iterator[Wire]:
    with redis.Redis.from_url(server_url) as client:
        client.function_flush()
    wire = ServerWire(settings, "test")
    yield wire
    wire.close()


def ask(wire: Wire, *command: str) -> object:
    return libraries.reply_to(wire, *command)


@pytest.mark.parametrize("name", [FLOWFABRIC, FFSUPER])
def test_a_missing_library_is_loaded_and_marked_as_ours(wire: Wire, name: str) -> None:
    libraries.prepare(wire, "auto")
    assert Mark.found_in(libraries.loaded_code(wire, name) or "") == libraries.own_mark(name)


def test_preparing_twice_loads_nothing_again(wire: Wire) -> None:
    libraries.prepare(wire, "auto")
    before = ask(wire, "INFO", "commandstats")
    libraries.prepare(wire, "auto")
    after = ask(wire, "INFO", "commandstats")
    loads = [line for line in str(before).split("\\r\\n") if "function|load" in line]
    assert loads == [line for line in str(after).split("\\r\\n") if "function|load" in line]


def older(name: str, release: tuple[int, ...]) -> str:
    own = libraries.own_mark(name)
    return libraries.assemble(name).replace(own.line, replace(own, release=release, digest="0000").line)


def test_an_older_library_of_ours_is_replaced(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", older(FLOWFABRIC, (0, 0, 1)))
    libraries.prepare(wire, "auto")
    assert Mark.found_in(libraries.loaded_code(wire, FLOWFABRIC) or "") == libraries.own_mark(FLOWFABRIC)


def test_a_newer_library_of_ours_is_left_alone(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", older(FLOWFABRIC, (99, 0, 0)))
    libraries.prepare(wire, "auto")
    found = Mark.found_in(libraries.loaded_code(wire, FLOWFABRIC) or "")
    assert found is not None
    assert found.release == (99, 0, 0)


def test_a_foreign_library_of_the_right_version_is_left_alone(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", FOREIGN.format(version="5"))
    libraries.prepare(wire, "auto")
    assert libraries.loaded_code(wire, FLOWFABRIC) == FOREIGN.format(version="5")
    assert libraries.loaded_code(wire, FFSUPER) is not None


@pytest.mark.parametrize("mode", ["auto", "never"])
def test_a_foreign_library_of_another_version_is_refused_and_left_alone(wire: Wire, mode: libraries.Mode) -> None:
    ask(wire, "FUNCTION", "LOAD", FOREIGN.format(version="4"))
    ask(wire, "FUNCTION", "LOAD", libraries.assemble(FFSUPER))
    with pytest.raises(StoreUnsuitableError, match=r"version 4, and this worker speaks version 5.*replace"):
        libraries.prepare(wire, mode)
    assert libraries.loaded_code(wire, FLOWFABRIC) == FOREIGN.format(version="4")


def test_a_foreign_library_is_replaced_where_the_operator_says_so(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", FOREIGN.format(version="4"))
    libraries.prepare(wire, "replace")
    assert ask(wire, "FCALL", "ff_version", "0") == b"5"


def test_where_loading_is_forbidden_a_missing_library_is_named(wire: Wire) -> None:
    with pytest.raises(StoreUnsuitableError, match=r'lacks library flowfabric, and .* "never"'):
        libraries.prepare(wire, "never")


def test_a_server_that_knows_no_functions_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path, "--rename-command", "FUNCTION", "") as url:
        wire = ServerWire(StoreConfig(url=url), "test")
        with pytest.raises(StoreUnsuitableError, match=r"knows no functions.*needs Redis 7\.0"):
            libraries.prepare(wire, "auto")
        wire.close()
