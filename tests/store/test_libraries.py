"""Loading the libraries into a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreUnsuitableError
from ffsuper.store import libraries, loading
from ffsuper.store.libraries import FFSUPER, FLOWFABRIC, NAMES, Mark
from ffsuper.store.wire import Command, ServerWire, Wire
from tests.redis_server import running_server
from tests.store.older import LATER_FUNCTIONS, library_of

FOREIGN = "#!lua name=flowfabric\nredis.register_function('ff_version', function() return '{version}' end)"


@pytest.fixture
def wire(settings: StoreConfig, server_url: str) -> Iterator[Wire]:
    with redis.Redis.from_url(server_url) as client:
        client.function_flush()
        wire = ServerWire(settings, "test")
        yield wire
        wire.close()
        client.function_flush()


def ask(wire: Wire, *command: str) -> object:
    return libraries.reply_to(wire, *command)


@pytest.mark.parametrize("name", [FLOWFABRIC, FFSUPER])
def test_a_missing_library_is_loaded_and_marked_as_ours(wire: Wire, name: str) -> None:
    loading.prepare(wire, "auto")
    assert Mark.found_in(libraries.loaded_code(wire, name) or "") == libraries.own_mark(name)


def test_preparing_twice_loads_nothing_again(wire: Wire) -> None:
    loading.prepare(wire, "auto")
    before = ask(wire, "INFO", "commandstats")
    loading.prepare(wire, "auto")
    after = ask(wire, "INFO", "commandstats")
    loads = [line for line in str(before).split("\\r\\n") if "function|load" in line]
    assert loads == [line for line in str(after).split("\\r\\n") if "function|load" in line]


def test_an_older_library_of_ours_is_replaced(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", library_of(FLOWFABRIC, (0, 0, 1)))
    loading.prepare(wire, "auto")
    assert Mark.found_in(libraries.loaded_code(wire, FLOWFABRIC) or "") == libraries.own_mark(FLOWFABRIC)


def test_a_newer_library_of_ours_is_left_alone(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", library_of(FLOWFABRIC, (99, 0, 0)))
    loading.prepare(wire, "auto")
    found = Mark.found_in(libraries.loaded_code(wire, FLOWFABRIC) or "")
    assert found is not None
    assert found.release == (99, 0, 0)


def test_a_foreign_library_of_the_right_version_is_left_alone(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", FOREIGN.format(version="5"))
    loading.prepare(wire, "auto")
    assert libraries.loaded_code(wire, FLOWFABRIC) == FOREIGN.format(version="5")
    assert libraries.loaded_code(wire, FFSUPER) is not None


@pytest.mark.parametrize("mode", ["auto", "never"])
def test_a_foreign_library_of_another_version_is_refused_and_left_alone(wire: Wire, mode: libraries.Mode) -> None:
    ask(wire, "FUNCTION", "LOAD", FOREIGN.format(version="4"))
    ask(wire, "FUNCTION", "LOAD", libraries.assemble(FFSUPER))
    with pytest.raises(StoreUnsuitableError, match=r"version 4, and this worker speaks version 5.*replace"):
        loading.prepare(wire, mode)
    assert libraries.loaded_code(wire, FLOWFABRIC) == FOREIGN.format(version="4")


def test_a_foreign_library_is_replaced_where_the_operator_says_so(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", FOREIGN.format(version="4"))
    loading.prepare(wire, "replace")
    assert ask(wire, "FCALL", "ff_version", "0") == b"5"


def test_where_loading_is_forbidden_a_missing_library_is_named(wire: Wire) -> None:
    with pytest.raises(StoreUnsuitableError, match=r'lacks library flowfabric, and .* "never"'):
        loading.prepare(wire, "never")


def test_a_server_that_knows_no_functions_is_refused(tmp_path: Path) -> None:
    with running_server(tmp_path, "--rename-command", "FUNCTION", "") as url:
        wire = ServerWire(StoreConfig(url=url), "test")
        with pytest.raises(StoreUnsuitableError, match=r"knows no functions.*needs Redis 7\.0"):
            loading.prepare(wire, "auto")
        wire.close()


def release_held(wire: Wire, name: str) -> tuple[int, ...] | None:
    """Return the release of a library that the store holds; None when it is missing or foreign."""
    found = Mark.found_in(libraries.loaded_code(wire, name) or "")
    return None if found is None else found.release


def test_functions_that_can_be_spared_are_ours_and_no_others_can() -> None:
    held = set(re.findall(r"register\('(ffsuper_\w+)'", libraries.source(FFSUPER)))
    assert held - libraries.needed() == libraries.SPARED
    assert {"ffsuper_renew_alive", "ffsuper_reclaimable", "ffsuper_lead"} < libraries.needed()


@pytest.mark.parametrize("release", [(0, 0, 1), (99, 0, 0)])
def test_a_library_that_lacks_what_can_be_spared_will_do(wire: Wire, release: tuple[int, ...]) -> None:
    ask(wire, "FUNCTION", "LOAD", library_of(FFSUPER, release, without=LATER_FUNCTIONS))
    ask(wire, "FUNCTION", "LOAD", libraries.assemble(FLOWFABRIC))
    loading.prepare(wire, "never")
    assert release_held(wire, FFSUPER) == release


@pytest.mark.parametrize(
    ("release", "mode", "remedy"),
    [
        ((99, 0, 0), "auto", "upgrade this worker, or go back"),
        ((99, 0, 0), "never", "upgrade this worker, or go back"),
        ((0, 0, 1), "never", 'set .* "auto"'),
    ],
)
def test_a_library_that_lacks_what_is_needed_is_refused_and_left_alone(
    wire: Wire, release: tuple[int, ...], mode: libraries.Mode, remedy: str
) -> None:
    without = ("ffsuper_lead", "ffsuper_renew_alive", "ffsuper_trim")
    ask(wire, "FUNCTION", "LOAD", library_of(FFSUPER, release, without=without))
    ask(wire, "FUNCTION", "LOAD", libraries.assemble(FLOWFABRIC))
    with pytest.raises(StoreUnsuitableError, match=f"without ffsuper_lead and 2 more, which .*: {remedy}"):
        loading.prepare(wire, mode)
    assert release_held(wire, FFSUPER) == release


def test_an_older_library_that_lacks_what_is_needed_is_replaced(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", library_of(FFSUPER, (0, 0, 1), without=("ffsuper_lead",)))
    loading.prepare(wire, "auto")
    assert release_held(wire, FFSUPER) == libraries.own_mark(FFSUPER).release


@pytest.mark.parametrize("mode", ["auto", "replace", "never"])
def test_a_later_library_of_ours_that_speaks_another_version_is_refused_and_left_alone(
    wire: Wire, mode: libraries.Mode
) -> None:
    ask(wire, "FUNCTION", "LOAD", library_of(FLOWFABRIC, (99, 0, 0)).replace("return '5'", "return '6'"))
    ask(wire, "FUNCTION", "LOAD", libraries.assemble(FFSUPER))
    with pytest.raises(
        StoreUnsuitableError, match="version 6, and this worker speaks version 5: upgrade this worker"
    ):
        loading.prepare(wire, mode)
    assert release_held(wire, FLOWFABRIC) == (99, 0, 0)


@pytest.mark.parametrize("body", ["error('no')", "return redis.call('GET', 'none')", None])
def test_a_foreign_library_that_tells_no_version_is_refused(wire: Wire, body: str | None) -> None:
    code = FOREIGN.replace("return '{version}'", body) if body else FOREIGN.replace("ff_version", "ff_other")
    ask(wire, "FUNCTION", "LOAD", code)
    with pytest.raises(StoreUnsuitableError, match=r"version \(not told\), and this worker speaks version 5"):
        loading.prepare(wire, "auto")


def test_a_server_that_does_not_take_our_library_is_refused(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", FOREIGN.format(version="5").replace("name=flowfabric", "name=other"))
    with pytest.raises(StoreUnsuitableError, match="does not take library flowfabric"):
        loading.prepare(wire, "auto")


@pytest.mark.parametrize("release", [(0, 0, 1), (99, 0, 0)])
def test_what_is_lost_is_loaded_again_and_what_was_replaced_stays(wire: Wire, release: tuple[int, ...]) -> None:
    ask(wire, "FUNCTION", "LOAD", library_of(FFSUPER, release, without=("ffsuper_claim_first",)))
    loading.restore(wire, "never")
    assert release_held(wire, FLOWFABRIC) is None
    loading.restore(wire, "auto")
    assert release_held(wire, FLOWFABRIC) == libraries.own_mark(FLOWFABRIC).release
    assert release_held(wire, FFSUPER) == release


def test_a_library_that_another_program_has_loaded_meanwhile_stays(wire: Wire) -> None:
    ask(wire, "FUNCTION", "LOAD", library_of(FFSUPER, (99, 0, 0)))
    loading.add(wire, FFSUPER, "auto")
    assert release_held(wire, FFSUPER) == (99, 0, 0)


def test_the_way_back_puts_ours_in_place_of_later_ones(wire: Wire) -> None:
    for name in NAMES:
        ask(wire, "FUNCTION", "LOAD", library_of(name, (99, 0, 0)).replace("return '5'", "return '6'"))
    loading.put_ours(wire, "auto")
    assert [release_held(wire, name) for name in NAMES] == [libraries.own_mark(name).release for name in NAMES]
    assert ask(wire, "FCALL", "ff_version", "0") == b"5"


def test_libraries_are_required_as_long_as_they_are_there(wire: Wire) -> None:
    loading.require_everywhere(wire, "never")  # nothing is there: it may yet come
    loading.require_everywhere(wire, "auto")
    assert [release_held(wire, name) for name in NAMES] == [libraries.own_mark(name).release for name in NAMES]
    ask(wire, "FUNCTION", "LOAD", "REPLACE", library_of(FFSUPER, (99, 0, 0), without=LATER_FUNCTIONS))
    loading.require_everywhere(wire, "auto")
    ask(wire, "FUNCTION", "LOAD", "REPLACE", library_of(FFSUPER, (99, 0, 0), without=("ffsuper_reclaimable",)))
    with pytest.raises(StoreUnsuitableError, match="without ffsuper_reclaimable, which this worker calls: upgrade"):
        loading.require_everywhere(wire, "auto")


class Rushed(Wire):
    """A way to a store where another program loads the first library just after the first question."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._is_loaded = False

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        replies = self._wire.exchange(commands)
        if not self._is_loaded:
            self._is_loaded = True
            loading.add(self._wire, NAMES[0], "auto")
        return replies

    def close(self) -> None:
        self._wire.close()

    def servers(self) -> Sequence[Wire]:
        return [self]


def test_libraries_that_another_program_is_just_loading_will_do(wire: Wire) -> None:
    loading.require_everywhere(Rushed(wire), "auto")
    assert [release_held(wire, name) for name in NAMES] == [libraries.own_mark(name).release for name in NAMES]
