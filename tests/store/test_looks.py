"""Looks at many indexes, with two servers whose clocks differ."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.errors import StoreUnavailableError
from ffsuper.messages import LaneId
from ffsuper.store.looks import First, Index, Looks, indexes
from tests.store.two_servers import Command, TwoServers

CLOCKS = {"even": 10_000, "odd": 10_400}


def two_servers(*away: str) -> TwoServers:
    """Return servers of whose indexes every one has an entry at 10,200."""

    def reply(node: str, command: Command) -> list[Any]:
        positions = range((len(command) - 4) // 3)
        found = [part for position in positions for part in (b"%d" % position, b"10200")]
        return [1, b"OK", b"%d" % CLOCKS[node], *found]

    return TwoServers(reply, {node: StoreUnavailableError(f"{node} is down") for node in away})


async def test_each_server_is_asked_once_and_its_own_clock_decides_what_is_due() -> None:
    servers = two_servers()
    wanted = indexes("delayed", range(4), [LaneId("default")])
    due = await Looks(servers).due(dict.fromkeys(wanted, float("-inf")))
    assert len(servers.asked) == 2
    assert due.first == {index: First(10_200, CLOCKS["odd" if index.partition % 2 else "even"]) for index in wanted}
    assert [due.first[index].late_ms for index in wanted] == [-200, 200, -200, 200]


async def test_a_server_that_is_down_hides_nothing_of_the_others() -> None:
    wanted = indexes("delayed", range(4))
    bounds = dict.fromkeys(wanted, float("-inf"))
    due = await Looks(two_servers("odd")).due(bounds)
    assert set(due.first) == {wanted[0], wanted[2]}
    with pytest.raises(StoreUnavailableError, match="is down"):
        await Looks(two_servers("odd", "even")).due(bounds)


def test_an_index_knows_its_neighbours() -> None:
    index = Index("delayed", 7, LaneId("default"))
    assert index.key == "ff:idx:{fp:7}:lane:default:delayed"
    assert index.beside("eligible") == "ff:idx:{fp:7}:lane:default:eligible"
    assert index.of_partition("all_executions") == "ff:idx:{fp:7}:all_executions"
    assert Index("budget_resets", 3, family="b").key == "ff:idx:{b:3}:budget_resets"
