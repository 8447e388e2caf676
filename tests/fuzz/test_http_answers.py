"""Whatever a server answers, its clients get a value or an error of ours."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.admin.client import AdminClient
from ffsuper.admin.wire import Ask, ServerWire, of_json
from ffsuper.clients import Execution
from ffsuper.config import ClaimConfig, WorkerConfig
from ffsuper.errors import ServerError, StoreError
from ffsuper.grants import open_grants
from ffsuper.messages import Candidate, LaneId
from ffsuper.sansio import partition
from tests.admin.transports import Answering
from tests.fuzz.calls import EXECUTION, UUID
from tests.fuzz.examples import fuzz
from tests.fuzz.http import answering, answering_async, answers, bodies
from tests.fuzz.values import JSON, TEXTS

LANE = LaneId("bulk")
CLAIM = ClaimConfig(source="server", server_url="http://server", server_timeout_s=5.0)
NOTHING = [b"HTTP/1.1 204 No Content\r\n\r\n"]
# Read once, for it takes long.
TRUSTED = ssl.create_default_context()
STRANGE = (
    "{fp:7}:x",
    f"{{fp:70000}}:{UUID}",
    f"{{fp:7}}:\n{'0' * 31}",
    "{fp:7}:" + "\u0660" * 32,
    f"{{fp:{'0' * 5_000}7}}:{UUID}",
)
GRANTS = st.fixed_dictionaries(
    {"execution_id": st.sampled_from((EXECUTION, *STRANGE)) | JSON},
    optional={
        "partition_family": st.sampled_from(("execution", "flow", "budget")) | JSON,
        "partition_index": st.sampled_from((7, 8, "7", 7.0, True)) | JSON,
        "grant_key": JSON,
        "error": TEXTS,
        "retryable": st.booleans() | JSON,
    },
)
ERRORS = st.fixed_dictionaries({}, optional={"error": TEXTS | JSON, "kind": JSON, "retryable": st.booleans() | JSON})


def granting(execution_id: str) -> list[bytes]:
    """Return an answer that grants an execution."""
    content = json.dumps({"execution_id": execution_id}).encode()
    return [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)]


@fuzz(300)
@given(parts=answers(bodies(GRANTS | ERRORS)))
@example(parts=[b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n"])
@example(parts=[b"HTTP/1.1 302 Found\r\nLocation: http://256.1.1.1/\r\nContent-Length: 0\r\n\r\n"])
@example(parts=[b"HTTP/1.1 307 Found\r\nLocation: http://a\xff/\r\nContent-Length: 0\r\n\r\n"])
@example(parts=granting(f"{{fp:7}}:\n{'0' * 31}"))
@example(parts=[b"HTTP/1.1 204 No Content\r\nSet-Cookie: a=\x82\r\n\r\n"])
@example(parts=[b"HTTP/1.1 204 No Content\r\nSet-Cookie: a=b; Expires=Thu, 99 Foo 9999 99:99:99 GMT\r\n\r\n"])
@example(parts=[b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nrest"])
def test_whatever_is_answered_to_who_asks_for_a_grant_is_one_or_a_server_error(parts: list[bytes]) -> None:
    async def ask() -> Candidate | None:
        with patch("ssl.create_default_context", return_value=TRUSTED):
            async with open_grants(CLAIM, WorkerConfig()) as grants:
                client: Any = grants._client
                try:
                    client._transport = answering_async(parts)
                    return await grants.ask(LANE)
                finally:
                    client._transport = answering_async(NOTHING)
                    assert await grants.ask(LANE) is None, "what comes next is not spoilt"

    candidate, told = None, ""
    try:
        candidate = trio.run(ask)
    except ServerError as error:
        told = str(error)
    assert told.isprintable()
    assert len(told) < 400
    if candidate is not None:
        assert partition.parse(candidate.execution_id) == candidate.execution_id
        assert candidate.execution_id.isprintable()
        assert (candidate.lane, candidate.is_granted) == (LANE, True)


# --- the client of a server ---------------------------------------------------------------------------------------

IDS = st.sampled_from((EXECUTION, *STRANGE)) | JSON
NUMBERS = st.sampled_from((0, 1, -1, 7, 256, 10**9, 10**30, 1.5, float("inf"), float("nan"), "7", "x", None, True))
WORDS = st.sampled_from(("completed", "waiting", "active", "pending", "OK", "")) | TEXTS
RECORD = st.dictionaries(
    st.sampled_from(("execution_id", "public_state", "execution_kind", "lane_id", "priority", "created_at", "x")),
    st.sampled_from((EXECUTION, "7")) | WORDS | NUMBERS | JSON,
)
FRAMES = st.lists(
    st.fixed_dictionaries(
        {"id": WORDS | JSON, "fields": st.dictionaries(TEXTS | st.just("ts"), WORDS | JSON, max_size=3)}
    ),
    max_size=3,
)
EXECUTIONS = st.fixed_dictionaries(
    {"execution_id": IDS, "public_state": WORDS, "execution_kind": WORDS, "lane_id": WORDS},
    optional={
        "state_vector": RECORD | JSON,
        "current_attempt_index": NUMBERS | JSON,
        "priority": NUMBERS | JSON,
        "created_at": NUMBERS | JSON,
        "tags": JSON,
    },
)
WAITPOINTS = st.fixed_dictionaries(
    dict.fromkeys(("waitpoint_id", "waitpoint_key", "state", "waitpoint_token"), WORDS | JSON),
    optional={"required_signal_names": st.lists(WORDS) | JSON, "created_at": NUMBERS, "expires_at": JSON},
)
BUDGETS = st.dictionaries(
    st.sampled_from(
        (
            *("budget_id", "scope_type", "scope_id", "usage", "hard_limits", "soft_limits", "breach_count"),
            *("soft_breach_count", "last_breach_at", "last_breach_dim", "next_reset_at", "created_at"),
        )
    ),
    st.dictionaries(TEXTS, NUMBERS, max_size=2) | NUMBERS | JSON,
    min_size=8,
)
OVER = st.fixed_dictionaries(
    {"dimension": JSON, "current_usage": NUMBERS, "soft_limit": NUMBERS, "hard_limit": NUMBERS}
)
# What is answered to a path that ends so.
TOLD: Mapping[str, st.SearchStrategy[Any]] = {
    "/v1/partitions": st.fixed_dictionaries(
        {f"num_{one}_partitions": NUMBERS for one in ("flow", "budget", "quota")}
    ),
    "/details": st.fixed_dictionaries(
        {"record": RECORD | EXECUTIONS, "tags": JSON, "attempts": st.lists(RECORD) | JSON, "history": JSON}
    ),
    "/state": WORDS | JSON,
    "/v1/executions": st.fixed_dictionaries({"executions": st.lists(EXECUTIONS, max_size=3) | JSON})
    | st.dictionaries(st.sampled_from(("Created", "Duplicate")), st.fixed_dictionaries({"execution_id": IDS})),
    "/pending-waitpoints": st.lists(WAITPOINTS, max_size=3),
    "/signal": st.dictionaries(
        st.sampled_from(("Accepted", "Duplicate")), st.dictionaries(st.just("signal_id"), JSON) | JSON
    ),
    "/tail": st.fixed_dictionaries({"frames": FRAMES | JSON}, optional={"closed_at": NUMBERS | JSON}),
    "/usage": st.sampled_from(("Ok", "AlreadyApplied", "x")) | st.dictionaries(st.just("HardBreach"), OVER | JSON),
    "/reset": st.fixed_dictionaries({"Reset": st.fixed_dictionaries({"next_reset_at": NUMBERS}) | JSON}),
    "/replay": st.fixed_dictionaries({"Replayed": st.fixed_dictionaries({"public_state": WORDS}) | JSON}),
    "/rotate-waitpoint-secret": st.fixed_dictionaries({"rotated": NUMBERS, "failed": JSON, "in_progress": JSON}),
    f"/{UUID}": BUDGETS,
}
REFUSALS = st.sampled_from(("ff_x failed: execution_not_found", "ff_x failed: stale_lease", "nothing")) | TEXTS
ASKED: Mapping[str, Callable[[AdminClient], Any]] = {
    "new_id": lambda client: client.new_id("default"),
    "submit": lambda client: client.submit("job"),
    "show": lambda client: used(client.show(EXECUTION)),
    "history": lambda client: client.history(EXECUTION),
    "state": lambda client: client.state(EXECUTION),
    "wait": lambda client: client.wait(EXECUTION, 0.0),
    "result": lambda client: client.result(EXECUTION),
    "cancel": lambda client: client.cancel(EXECUTION),
    "waitpoints": lambda client: client.waitpoints(EXECUTION),
    "waitpoint": lambda client: client.waitpoint(EXECUTION),
    "signal": lambda client: client.signal(EXECUTION, "a"),
    "tail": lambda client: list(islice(client.tail(EXECUTION, live=False), 5)),
    "list_lane": lambda client: [used(one) for one in client.list_lane("default")],
    "change_priority": lambda client: client.change_priority(EXECUTION, 5),
    "replay": lambda client: client.replay(EXECUTION),
    "revoke_lease": lambda client: client.revoke_lease(EXECUTION),
    "rotate_secret": lambda client: client.rotate_secret("k2", "00"),
    "create_budget": lambda client: client.create_budget({"tokens": 1}),
    "budget": lambda client: client.budget(UUID),
    "report_usage": lambda client: client.report_usage(UUID, {"tokens": 1}),
    "reset_budget": lambda client: client.reset_budget(UUID),
    "create_quota": lambda client: client.create_quota(max_concurrent=1),
}
MOST_REQUESTS = 30


def used(execution: Execution) -> Execution:
    """Look at what people look at, and check that it is text."""
    for record in (execution.record, execution.tags, *execution.attempts):
        assert {type(part) for pair in record.items() for part in pair} <= {str}
    return execution


class Changing(httpx.BaseTransport):
    """Goes by another transport each time."""

    way: httpx.BaseTransport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self.way.handle_request(request)


WAY = Changing()
# Made once, because to read the system's certificates takes long.
WIRE = ServerWire("http://server", "", 0.0, transport=WAY)


class Nonsense(AdminClient):
    """A client whose server answers nonsense."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        WAY.way = Answering(answer)
        self._wire = WIRE
        self._known_counts = None


@pytest.mark.parametrize("name", ASKED)
@fuzz(25)
@given(data=st.data())
def test_whatever_a_server_answers_its_client_returns_a_value_or_raises_a_store_error(
    name: str, data: st.DataObject
) -> None:
    requests = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal requests
        requests += 1
        if requests > MOST_REQUESTS:
            return httpx.Response(400, text="enough")
        if data.draw(st.integers(0, 9)) == 0:
            told = {"error": data.draw(REFUSALS), "retryable": data.draw(JSON)}
            status = data.draw(st.sampled_from((400, 401, 404, 405, 409, 422, 429, 500, 503, 302)))
            return httpx.Response(status, content=json.dumps(told).encode())
        likely = next((told for end, told in TOLD.items() if request.url.path.endswith(end)), EXECUTIONS)
        return httpx.Response(200, content=data.draw(bodies(likely)))

    try:
        ASKED[name](Nonsense(answer))
    except (StoreError, TimeoutError):
        return


@fuzz(200)
@given(parts=answers(bodies(EXECUTIONS | ERRORS)), method=st.sampled_from(("GET", "POST")))
@example(parts=[b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20_000], method="GET")
@example(parts=[b"HTTP/1.1 302 Found\r\nLocation: http://256.1.1.1/\r\nContent-Length: 0\r\n\r\n"], method="GET")
@example(parts=[b"HTTP/1.1 200 OK\r\nSet-Cookie: a=\x82\r\nContent-Length: 1\r\n\r\n1"], method="GET")
def test_any_bytes_of_a_server_are_an_answer_or_a_store_error(parts: list[bytes], method: str) -> None:
    ask: Ask[Any] = Ask(verb="show", path="/v1/x", read=of_json(lambda told: told), method=method, subject="x")
    WAY.way, told = answering(parts), ""
    try:
        WIRE.call(ask)
    except StoreError as error:
        told = str(error)
    assert told.isprintable()
    assert len(told) < 500
    WAY.way = answering(NOTHING)
    assert WIRE.call(replace(ask, read=len)) == 0, "what comes next is not spoilt"
