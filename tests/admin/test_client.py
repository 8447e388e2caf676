"""The client of a server, where that knows no more than the protocol, or answers at the wrong moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from ffsuper.admin.client import AdminClient
from ffsuper.admin.wire import NoSuchRouteError, ServerWire
from tests.admin.transports import Answering

Answerer = Callable[[httpx.Request], httpx.Response]
Opener = Callable[[Answerer], AdminClient]

EXECUTION = "{fp:1}:00000000-0000-0000-0000-000000000000"
PATH = f"/v1/executions/{EXECUTION}"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Provide what opens a client whose server answers so."""

    def open_client(answer: Answerer) -> AdminClient:
        transport = Answering(answer)
        with monkeypatch.context() as patched:
            patched.setattr("ffsuper.admin.client.ServerWire", partial(ServerWire, transport=transport))
            return AdminClient("http://server:9090")

    return open_client


def told(state: str = "waiting", index: int = 0) -> dict[str, Any]:
    """Return what the protocol's route tells of the execution."""
    return {
        "execution_id": EXECUTION,
        "lane_id": "default",
        "execution_kind": "job",
        "priority": 3,
        "public_state": state,
        "state_vector": {"blocking_reason": "waiting_for_worker"},
        "current_attempt_index": index,
        "flow_id": None,
    }


def flowfabric(requests: list[Any]) -> Answerer:
    """Return a server that knows no more than the protocol, creates everything and shows one execution."""

    def answer(request: httpx.Request) -> httpx.Response:
        match request.method, request.url.path:
            case "POST", "/v1/executions":
                requests.append(json.loads(request.content))
                return httpx.Response(201, json={"Created": {"execution_id": requests[-1]["execution_id"]}})
            case "GET", path if path == PATH:
                return httpx.Response(200, json=told())
        return httpx.Response(404)

    return answer


def test_a_server_that_knows_no_more_than_the_protocol_gets_ids_and_policies_that_it_can_use(opened: Opener) -> None:
    requests: list[Any] = []
    with opened(flowfabric(requests)) as client:
        plain = client.submit("job", b"\x00\xff")
        client.submit("job", policy={"max_reclaim_count": 2})
        with pytest.raises(NoSuchRouteError, match="list_lane"):
            client.list_lane("default")
    assert plain.startswith("{fp:86}:")
    assert [one["partition_id"] for one in requests] == [86, 86]
    assert [one["input_payload"] for one in requests] == [[0, 255], []]
    assert [one["policy"] for one in requests] == [None, {"max_reclaim_count": 2, "routing_requirements": {}}]


def test_a_server_that_knows_no_more_than_the_protocol_shows_as_much_as_its_route_tells(opened: Opener) -> None:
    with opened(flowfabric([])) as client:
        shown = client.show(EXECUTION)
        assert client.history(EXECUTION) == []
    assert (shown.id, shown.state, shown.kind, shown.tags, shown.attempts) == (EXECUTION, "waiting", "job", {}, [])
    assert (shown.record["priority"], shown.record["flow_id"]) == ("3", "")
    assert shown.record["blocking_reason"] == "waiting_for_worker"


def test_a_tail_waits_for_the_next_attempt_once_the_stream_of_the_last_is_closed(opened: Opener) -> None:
    asked = list[tuple[int, str, bool]]()
    record = told("delayed")

    def frame(frame_id: str) -> dict[str, Any]:
        return {"id": frame_id, "fields": {"payload": frame_id}}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == PATH:
            return httpx.Response(200, json=record)
        index, after = int(request.url.path.split("/")[5]), request.url.params["after"]
        asked.append((index, after, request.url.params["block_ms"] != "0"))
        if index == 0:
            frames = [frame("1-0")] if after == "0-0" else []
            return httpx.Response(200, json={"frames": frames, "count": len(frames), "closed_at": 1700})
        record.update(told("completed", 1))
        frames = [frame("2-0")] if after == "0-0" else []
        return httpx.Response(200, json={"frames": frames, "count": len(frames)})

    with opened(answer) as client:
        assert [one.payload for one in client.tail(EXECUTION)] == [b"1-0", b"2-0"]
    assert asked == [(0, "0-0", True), (0, "1-0", False), (1, "0-0", True), (1, "2-0", False)]
