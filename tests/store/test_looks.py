"""Looks at many indexes, with two servers whose clocks differ."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

from ffsuper.errors import StoreUnavailableError
from ffsuper.messages import LaneId
from ffsuper.store.connection import Connection
from ffsuper.store.looks import First, Index, Looks, indexes
from ffsuper.store.replies import Call

CLOCKS = {"even": 10_000, "odd": 10_400}


class TwoServers(Connection):
    """Even partitions on one, odd ones on the other; every index has an entry at 10,200."""

    def __init__(self, away: Collection[str] = ()) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.away = away

    async def nodes_of(self, keys: Sequence[str]) -> list[str]:
        return ["odd" if int(key.split("}")[0].split(":")[-1]) % 2 else "even" for key in keys]

    async def try_all(self, calls: Sequence[Call[Any]], timeout_s: float | None = None) -> list[Any]:
        return [await self._answer(call) for call in calls]

    async def _answer(self, call: Call[Any]) -> Any:
        self.asked.append(call.command)
        (node,) = await self.nodes_of([str(call.command[3])])
        if node in self.away:
            return StoreUnavailableError(f"{node} is down")
        positions = range((len(call.command) - 4) // 3)
        found = [part for position in positions for part in (b"%d" % position, b"10200")]
        return call.parse([1, b"OK", b"%d" % CLOCKS[node], *found])


async def test_each_server_is_asked_once_and_its_own_clock_decides_what_is_due() -> None:
    servers = TwoServers()
    wanted = indexes("delayed", range(4), [LaneId("default")])
    due = await Looks(servers).due(dict.fromkeys(wanted, float("-inf")))
    assert len(servers.asked) == 2
    assert due.first == {index: First(10_200, CLOCKS["odd" if index.partition % 2 else "even"]) for index in wanted}
    assert [due.first[index].late_ms for index in wanted] == [-200, 200, -200, 200]


async def test_a_server_that_is_down_hides_nothing_of_the_others() -> None:
    wanted = indexes("delayed", range(4))
    bounds = dict.fromkeys(wanted, float("-inf"))
    due = await Looks(TwoServers(away=["odd"])).due(bounds)
    assert set(due.first) == {wanted[0], wanted[2]}
    with pytest.raises(StoreUnavailableError, match="is down"):
        await Looks(TwoServers(away=["odd", "even"])).due(bounds)


def test_an_index_knows_its_neighbours() -> None:
    index = Index("delayed", 7, LaneId("default"))
    assert index.key == "ff:idx:{fp:7}:lane:default:delayed"
    assert index.beside("eligible") == "ff:idx:{fp:7}:lane:default:eligible"
    assert index.of_partition("all_executions") == "ff:idx:{fp:7}:all_executions"
    assert Index("budget_resets", 3, family="b").key == "ff:idx:{b:3}:budget_resets"
