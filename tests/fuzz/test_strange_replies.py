"""Replies and answers that once ended a program: a StoreError now, or what can be made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import trio
from hypothesis import strategies as st

from ffsuper.client import Client
from ffsuper.errors import InvalidRequestError, StoreError, StoreUnsuitableError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store import fleet, submissions
from ffsuper.store.connection import Connection
from ffsuper.store.keys import is_execution_id, read_id
from ffsuper.store.replies import Call
from ffsuper.store.workers import as_told
from tests.fuzz import test_client_replies as of_stores
from tests.fuzz import test_http_answers as of_servers
from tests.fuzz.calls import EXECUTION, UUID, errands, verbs
from tests.fuzz.stores import NonsenseConnection, NonsenseWire

BIG = b"9" * 12
FAR = b"{fp:" + b"9" * 5_000 + b"}:x"


class Canned:
    """Stands where examples are drawn: gives one reply after the other, then None."""

    def __init__(self, replies: Sequence[Any]) -> None:
        self._left = [False, *replies]

    def draw(self, _: st.SearchStrategy[Any]) -> Any:
        return self._left.pop(0) if self._left else None


def canned(replies: Sequence[Any]) -> st.DataObject:
    found: Any = Canned(replies)
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("verb", "replies"),
    [
        ("looks.Looks.present", [[1, b"OK", b""]]),
        ("looks.Looks.present", [[1, b"OK", b"5"]]),
        ("looks.Looks.due", [[1, b"OK", b"1", b"5", b"0"]]),
        ("looks.Looks.due", [[1, b"OK"]]),
        ("admission.Admission.last_turns", [[]]),
        ("signals.read_open_waitpoints", [[b"0", [7]]]),
        ("signals.read_resume_signals", [[b"0"]]),
        ("leadership.Leadership.lead", [[1, b"OK", b"\xff"]]),
        ("sweeps.Sweeps.move", [[1, b"OK", b"x"]]),
    ],
)
def test_what_is_no_answer_to_an_actor_is_a_store_error(verb: str, replies: Sequence[Any]) -> None:
    results: list[Any] = []

    async def ask(connection: Connection) -> None:
        results.append(await dict(verbs())[verb](connection))

    try:
        trio.run(ask, NonsenseConnection(canned(replies)))
    except StoreError:
        return
    ((result,),) = results
    assert isinstance(result, StoreError)


@pytest.mark.parametrize("verb", ["holder", "order"])
def test_a_number_in_place_of_a_text_takes_no_room(verb: str) -> None:
    found: list[bytes] = []

    async def ask(connection: Connection) -> None:
        found.append(await dict(verbs())[f"presence.Presence.{verb}"](connection))

    trio.run(ask, NonsenseConnection(canned([2**45])))
    assert found == [b"%d" % 2**45]


def test_a_member_that_names_no_partition_is_nobodys_work() -> None:
    assert not is_execution_id(FAR.decode())
    assert not is_execution_id("{fp:\u0661}:x")
    assert is_execution_id(EXECUTION)
    for number in ("007", "+7", "65536", "7 "):
        assert not is_execution_id(EXECUTION.replace("7", number, 1))


@pytest.mark.parametrize("reply", [[[b"library_name"]], [[b"library_name", b"flowfabric"]], [7], b"text"])
def test_a_list_of_libraries_that_is_none_is_a_store_error(reply: Any) -> None:
    with pytest.raises(StoreUnsuitableError):
        dict(errands())["loading.prepare"](NonsenseWire(canned([reply])))


def test_a_version_that_is_none_is_another_one() -> None:
    ours = [[b"library_name", b"flowfabric", b"library_code", b"#!lua"]]
    with pytest.raises(StoreUnsuitableError, match="holds library flowfabric version "):
        dict(errands())["loading.prepare"](NonsenseWire(canned([ours, ours, None])))


# --- clients of a store -------------------------------------------------------------------------------------------


def client(*replies: Any) -> Client:
    return of_stores.Nonsense(canned(replies))


def test_an_execution_whose_record_lacks_fields_is_shown_without_them() -> None:
    shown = client([b"lane_id", b"slow"], []).show(EXECUTION)
    assert (shown.lane, shown.state, shown.kind) == ("slow", "", "")


def test_a_damaged_count_of_attempts_is_not_believed() -> None:
    assert (
        len(submissions.read_attempts(EXECUTION, {"total_attempt_count": BIG.decode()})) == submissions.MOST_ATTEMPTS
    )
    assert submissions.read_attempts(EXECUTION, {"total_attempt_count": "9" * 5_000}) == []


def test_what_is_no_id_in_an_index_is_not_listed() -> None:
    read = submissions.read_index(LaneId("default"), 7, "eligible", 0, 10)
    assert read.parse([b"{fp:7}:x", b"1", EXECUTION.encode(), b"2", b"\xff", b"3"]) == [(EXECUTION, 2.0)]
    assert read_id(f"{{fp:7}}:{UUID}".encode()) == ExecutionId(EXECUTION)


@pytest.mark.parametrize("score", [b"inf", b"-inf", b"nan"])
def test_a_score_without_end_is_no_time(score: bytes) -> None:
    assert fleet.read_last(LaneId("default"), 7).parse([b"x", score]) is None
    assert fleet.read_lease_end(EXECUTION).parse(score) is None


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("nan")])
def test_a_number_of_a_worker_that_counts_nothing_is_0(number: float) -> None:
    assert as_told("worker", {"memory_bytes": number}).memory_bytes == 0


def test_a_reply_that_is_nested_too_deeply_is_a_store_error() -> None:
    call: Call[Any] = Call(("GET", "key"), json.loads)
    with pytest.raises(StoreError, match="GET key: the reply cannot be read: maximum recursion depth exceeded"):
        call.parse(b"[" * 5_000)


# --- clients of a server ------------------------------------------------------------------------------------------

COUNTS = {"num_flow_partitions": 1, "num_budget_partitions": 1, "num_quota_partitions": 1}
EXECUTION_TOLD = {
    "execution_id": EXECUTION,
    "public_state": "completed",
    "execution_kind": "job",
    "lane_id": "default",
}


@pytest.mark.parametrize(
    ("verb", "answers"),
    [
        ("new_id", [COUNTS | {"num_flow_partitions": 0}]),
        ("new_id", [COUNTS | {"num_budget_partitions": float("inf")}]),
        ("new_id", [COUNTS | {"num_quota_partitions": 10**9}]),
        ("submit", [COUNTS, {"Created": {"execution_id": 7}}]),
        ("tail", [EXECUTION_TOLD]),
        ("list_lane", [COUNTS, {"executions": [EXECUTION_TOLD]}]),
        ("list_lane", [COUNTS, {"executions": [EXECUTION_TOLD | {"priority": "high", "created_at": 5}]}]),
        ("show", [{"record": EXECUTION_TOLD, "tags": {}, "attempts": [7], "history": []}]),
        ("reset_budget", [{"Reset": {"next_reset_at": float("inf")}}]),
    ],
)
def test_what_is_no_answer_to_a_client_is_a_store_error(verb: str, answers: list[Any]) -> None:
    left = list(answers)
    asking = of_servers.Nonsense(lambda _: httpx.Response(200, content=json.dumps(left.pop(0)).encode()))
    with pytest.raises(StoreUnsuitableError, match="answers what the protocol does not have"):
        of_servers.ASKED[verb](asking)


def test_a_token_that_cannot_be_sent_is_refused() -> None:
    waitpoint = {"waitpoint_id": UUID, "waitpoint_key": "k", "state": "active", "waitpoint_token": "\ud800"}
    asking = of_servers.Nonsense(lambda _: httpx.Response(200, content=json.dumps([waitpoint]).encode()))
    with pytest.raises(InvalidRequestError, match=r"signal: invalid_input .it cannot be sent: "):
        asking.signal(EXECUTION, "a")


def test_numbers_in_a_record_are_shown_as_text() -> None:
    told = {
        "record": EXECUTION_TOLD | {"priority": 5, "worker": None},
        "tags": {"a": 1},
        "attempts": [],
        "history": [],
    }
    asking = of_servers.Nonsense(lambda _: httpx.Response(200, json=told))
    shown = asking.show(EXECUTION)
    assert (shown.record["priority"], shown.record["worker"], shown.tags) == ("5", "", {"a": "1"})
