"""Whatever the store replies, its clients get a value or an error of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsuper.client import Client
from ffsuper.commands import overview, tables
from ffsuper.config import StoreConfig
from ffsuper.errors import FfsuperError
from ffsuper.messages import Order
from ffsuper.sansio.partition import PartitionCounts
from tests.fuzz.calls import EXECUTION, UUID
from tests.fuzz.examples import fuzz
from tests.fuzz.stores import NonsenseWire


class Nonsense(Client):
    """A client whose store answers nonsense."""

    def __init__(self, data: st.DataObject) -> None:
        self._patience_s = 0.0
        self._lock = threading.Lock()
        self._settings = StoreConfig()
        self._wire = NonsenseWire(data)
        self._counts = PartitionCounts(2, 2, 2)


def shown(client: Client) -> None:
    """Look at everything, and show it as people and programs see it."""
    look = overview.look(client)
    json.dumps(overview.as_json(look, {}))
    for worker in look.workers:
        tables.span(look.now_ms - worker.since_ms)
        tables.size(worker.memory_bytes)
    for run in look.runs:
        tables.span(run.age_ms)


ASKED: Mapping[str, Callable[[Client], object]] = {
    "submit": lambda client: client.submit("job", lane="default"),
    "show": lambda client: client.show(EXECUTION),
    "state": lambda client: client.state(EXECUTION),
    "wait": lambda client: client.wait(EXECUTION, 0.0),
    "result": lambda client: client.result(EXECUTION),
    "results": lambda client: client.results([EXECUTION] * 3),
    "states": lambda client: client.states([EXECUTION] * 3),
    "cancel": lambda client: client.cancel(EXECUTION),
    "replay": lambda client: client.replay(EXECUTION),
    "waitpoint": lambda client: client.waitpoint(EXECUTION),
    "signal": lambda client: client.signal(EXECUTION, "a"),
    "history": lambda client: client.history(EXECUTION),
    "list_lane": lambda client: client.list_lane("default"),
    "depth": lambda client: client.depth("default"),
    "create_flow": lambda client: client.create_flow(),
    "flow.add": lambda client: client.flow(UUID).add("job", after=[EXECUTION]),
    "flow.show": lambda client: client.flow(UUID).show(),
    "flow.wait": lambda client: client.flow(UUID).wait(0.0),
    "flow.cancel": lambda client: client.flow(UUID).cancel(),
    "fleet.workers": lambda client: client.fleet.workers(answer_s=0),
    "fleet.tell": lambda client: client.fleet.tell("text", Order.QUIET),
    "fleet.missing_for": lambda client: client.fleet.missing_for(client.show(EXECUTION)),
    "fleet.lanes": lambda client: client.fleet.lanes(["default"]),
    "fleet.lanes of all": lambda client: client.fleet.lanes(),
    "fleet.lease_ends_ms": lambda client: client.fleet.lease_ends_ms([EXECUTION]),
    "fleet.time_ms": lambda client: client.fleet.time_ms(),
    "fleet.engine": lambda client: client.fleet.engine(),
    "fleet.load": lambda client: client.fleet.load(),
    "overview": shown,
}


@pytest.mark.parametrize("name", ASKED)
@fuzz(20)
@given(data=st.data())
def test_whatever_a_client_asks_any_replies_are_taken_or_refused(name: str, data: st.DataObject) -> None:
    try:
        ASKED[name](Nonsense(data))
    except (FfsuperError, TimeoutError):
        return
    except ValueError as error:
        if "is no worker of ffsuper" not in str(error):
            raise
