"""The signs of life of the engine's actors, over a store that never answers, answers slowly, or has nothing to do."""

from __future__ import annotations

import importlib
import inspect
import math
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

from ffsuper import engine
from ffsuper.engine import leader
from ffsuper.errors import StoreUnavailableError
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.sansio.pulse import Pulses
from ffsuper.store import keys
from ffsuper.store.blocked import PAGE as BLOCKED_PAGE
from ffsuper.store.blocked import Blocked
from ffsuper.store.connection import Connection
from ffsuper.store.dependencies import Dependencies
from ffsuper.store.housekeeping import Housekeeping
from ffsuper.store.leadership import Leadership
from ffsuper.store.replies import Call
from ffsuper.store.sweeps import PAGE, Sweeps
from tests.fakes import HOUR_S, LANE

MODULES = [
    importlib.import_module(f"ffsuper.engine.{path.stem}") for path in sorted(Path(engine.__path__[0]).glob("*.py"))
]
ACTORS = [module for module in MODULES if hasattr(module, "run")]
USERS_OF_THE_STORE = [module for module in ACTORS if not module.__name__.endswith("reporter")]

LIMIT_S = 10.0
# Of one call; two fit into the limit, as they do in any configuration that ``ffsuper check`` is content with.
SLOW_S = 4.9
ENDED = b"{fp:1}:6ba7b810-9dad-11d1-80b4-00c04fd430c8"
QUOTA = str(uuid.UUID(int=1)).encode()
OK = (1, b"OK")

NOTHING_TO_DO: dict[str, Any] = {
    "EXISTS": 0,
    "SMEMBERS": set(),
    "ffsuper_present": [*OK],
    "ffsuper_due": [*OK, b"1000"],
    "ffsuper_lead": [*OK, b"leading", b"1"],
    "ffsuper_stop_leading": [*OK],
    "ffsuper_settle": [*OK, b"0", b"", b"", b"0"],
}
# The first index has something on one page.
SOMETHING = NOTHING_TO_DO | {
    "SMEMBERS": {QUOTA},
    "GET": b"",
    "HGET": None,
    "HGETALL": {},
    "SSCAN": [b"0", [ENDED]],
    "ZSCAN": [b"0", [ENDED, b"1"]],
    "ffsuper_present": [*OK, b"0"],
    "ffsuper_due": [*OK, b"1000", b"0", b"0"],
    "ffsuper_blocked_causes": [*OK, b"1", QUOTA, b"1"],
    "ffsuper_quota_room": [*OK, b"9"],
    "ffsuper_give_back": [*OK, b"given_back"],
    "ffsuper_unblock": [*OK, b"1", b"1", b"0", b"", b""],
    "ffsuper_count_members": [*OK, b"0", b"1", b"completed", b"1"],
    "ffsuper_write_summary": [*OK, b"over"],
}
PAGES_WITHOUT_END: dict[str, Any] = {
    "GET": b"",  # one for each of a great many workers
    "SSCAN": [b"7", [ENDED]],
    "ZSCAN": [b"7", [ENDED, b"1"]],
    "ffsuper_promote_delayed": [*OK, b"1000", PAGE, PAGE, b"0", b"", b""],
    "ffsuper_trim": [*OK, b"1000", PAGE, PAGE, b"0", b"", b""],
    "ffsuper_reconcile": [*OK, b"7", b"0", b"", b""],
    "ffsuper_settle": [*OK, b"0", b"", b"", b"0", b"in", ENDED, b"0"],
    "ffsuper_count_members": [*OK, b"7", b"1"],
    "ffsuper_blocked_causes": [*OK, BLOCKED_PAGE, QUOTA, b"1"],
    "ffsuper_unblock": [*OK, BLOCKED_PAGE, b"0", b"0", b"", b""],
}
# Actors, what they page through, and which of their indexes is there.
LONG = [
    ("delayed", "ffsuper_promote_delayed", 0),
    ("index_reconciler", "ffsuper_reconcile", 0),
    ("retention", "ffsuper_trim", 0),
    ("completions", "ffsuper_settle", 0),
    ("dependencies", "ffsuper_settle", 0),
    ("dependencies", "ZSCAN", 0),
    ("flow_summary", "SSCAN", 0),
    ("flow_summary", "ffsuper_count_members", 0),
    ("quota_places", "SSCAN", 0),
    ("unblock", "ffsuper_blocked_causes", 0),
    ("unblock", "ffsuper_unblock", 1),
    ("unblock", "SSCAN", 1),
    ("unblock", "GET", 2),
]


class FakeConnection(Connection):
    """A store that answers with what it is told to, by function, key or command.

    Attributes:
        asked: in how many exchanges a function or command was called.
    """

    def __init__(self, replies: dict[str, Any], slow_s: float = 0.0, hangs_at: str = "") -> None:
        self.asked = Counter[str]()
        self._replies = replies
        self._slow_s = slow_s
        self._hangs_at = hangs_at

    async def nodes_of(self, keys: Sequence[str]) -> list[str]:
        if keys:
            await self.run(Call(("EXISTS", keys[0]), bool))
        return [""] * len(keys)

    async def _exchange(self, calls: Sequence[Call[Any]], limit_s: float | None) -> list[Any]:
        if not calls:
            return []
        names = {str(call.command[call.command[0] == "FCALL"]) for call in calls}
        self.asked.update(names)
        await trio.sleep(math.inf if self._hangs_at in names else self._slow_s)
        return [self._reply(call) for call in calls]

    def _reply(self, call: Call[Any]) -> Any:
        command, key_or_function, *_ = map(str, call.command)
        if key_or_function in self._replies:
            return self._replies[key_or_function]
        return self._replies.get(command, StoreUnavailableError("the test says that the store is away"))


def name_of(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


@asynccontextmanager
async def acting(actor: ModuleType, connection: Connection) -> AsyncIterator[Pulses]:
    """Run an actor; yields its signs of life. One announcement is there for whoever listens."""
    pulses = Pulses(trio.current_time)
    reports, reported = trio.open_memory_channel[Any](math.inf)
    announce, announced = trio.open_memory_channel[bytes](1)
    announce.send_nowait(b'{"execution_id": "%s"}' % ENDED)
    ask, asked = trio.open_memory_channel[None](1)
    world = {
        "leadership": Leadership(connection),
        "sweeps": Sweeps(connection),
        "blocked": Blocked(connection, PartitionCounts()),
        "housekeeping": Housekeeping(connection),
        "dependencies": Dependencies(connection),
        "partitions": [0],
        "lanes": [LANE],
        "interval_s": HOUR_S,
        "reports": reported if name_of(actor) == "reporter" else reports,
        "pulses": pulses,
        "announced": announced,
        "ask": ask,
        "asked": asked,
        "holder": "one",
        "ttl_ms": 60_000,
        "sweep": trio.sleep_forever,
        "now_s": trio.current_time,
        "say": len,
    }
    what = {name: world[name] for name in inspect.signature(actor.run).parameters}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: actor.run(**what))
        await trio.testing.wait_all_tasks_blocked()
        yield pulses
        nursery.cancel_scope.cancel()
    assert pulses.silent_s() == {}


async def never_stuck(pulses: Pulses, for_s: float) -> None:
    ends_s = trio.current_time() + for_s
    while trio.current_time() < ends_s:
        assert pulses.stuck(LIMIT_S) == []
        await trio.sleep(1)


@pytest.mark.parametrize("actor", ACTORS, ids=name_of)
async def test_an_actor_has_its_pulse_and_rests_when_nothing_is_to_be_done(
    actor: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    async with acting(actor, FakeConnection(NOTHING_TO_DO)) as pulses:
        assert list(pulses.silent_s()) == [name_of(actor)]
        await never_stuck(pulses, HOUR_S / 2)


async def test_a_leader_that_stands_by_rests(autojump_clock: trio.testing.MockClock) -> None:
    connection = FakeConnection(NOTHING_TO_DO | {"ffsuper_lead": [*OK, b"led", b"two", b"30000"]})
    async with acting(leader, connection) as pulses:
        await never_stuck(pulses, HOUR_S)


@pytest.mark.parametrize("actor", USERS_OF_THE_STORE, ids=name_of)
async def test_a_store_that_is_away_makes_no_actor_stuck(
    actor: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    connection = FakeConnection({}, SLOW_S)
    async with acting(actor, connection) as pulses:
        await never_stuck(pulses, 600)
    assert connection.asked


@pytest.mark.parametrize("actor", USERS_OF_THE_STORE, ids=name_of)
async def test_an_actor_whose_call_never_returns_is_stuck(
    actor: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    async with acting(actor, FakeConnection(NOTHING_TO_DO, slow_s=math.inf)) as pulses:
        await trio.sleep(LIMIT_S)
        assert pulses.stuck(LIMIT_S) == []
        await trio.sleep(1)
        assert pulses.stuck(LIMIT_S) == [name_of(actor)]


def replies(present: int, **more: Any) -> dict[str, Any]:
    return SOMETHING | {"ffsuper_present": [*OK, present], keys.LANES: set()} | more


@pytest.mark.parametrize(("name", "function", "present"), LONG)
async def test_an_actor_that_hangs_in_the_middle_of_a_sweep_is_stuck(
    name: str, function: str, present: int, autojump_clock: trio.testing.MockClock
) -> None:
    actor = importlib.import_module(f"ffsuper.engine.{name}")
    async with acting(actor, FakeConnection(replies(present), hangs_at=function)) as pulses:
        await trio.sleep(LIMIT_S + 1)
        assert pulses.stuck(LIMIT_S) == [name]


@pytest.mark.parametrize(("name", "function", "present"), LONG)
async def test_no_sweep_is_so_long_that_its_actor_looks_stuck(
    name: str, function: str, present: int, autojump_clock: trio.testing.MockClock
) -> None:
    actor = importlib.import_module(f"ffsuper.engine.{name}")
    workers = {b"%d" % number for number in range(20_000)}
    endless = replies(present, **{function: PAGES_WITHOUT_END[function], keys.WORKERS: workers})
    connection = FakeConnection(endless, SLOW_S)
    async with acting(actor, connection) as pulses:
        await never_stuck(pulses, HOUR_S / 3)
    assert connection.asked[function] > 50
