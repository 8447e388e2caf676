"""The HTTP interface on a real store, without a network."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis

from ffsuper.client import Client
from ffsuper.config import ServerConfig, StoreConfig
from ffsuper.messages import ExecutionId
from ffsuper.server.guard import MAX_BODY_BYTES
from ffsuper.store.keys import ExecutionKeys
from tests.fakes import LANE
from tests.lua.executions import call_claim, call_grant
from tests.lua.world import World
from tests.server.serving import serving


@pytest.fixture
async def http(settings: StoreConfig, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as sender:
        yield sender


def new_id() -> str:
    return f"{{fp:86}}:{uuid.uuid4()}"


def path(execution: str, rest: str = "") -> str:
    return f"/v1/executions/{quote(execution, safe='')}{rest}"


def body(execution: str, **changes: Any) -> dict[str, Any]:
    return {
        "execution_id": execution,
        "namespace": "books",
        "lane_id": "default",
        "execution_kind": "job",
        "input_payload": [0, 255, 10],
        "priority": 3,
        "creator_identity": "ann",
        "tags": {"color": "blue"},
        "policy": {"max_reclaim_count": 2, "routing_requirements": None},
        "partition_id": 86,
        "now": 1,
        **changes,
    }


async def created(http: httpx.AsyncClient, **changes: Any) -> str:
    execution = new_id()
    answer = await http.post("/v1/executions", json=body(execution, **changes))
    assert answer.status_code == 201, answer.text
    return execution


async def test_an_execution_is_created_with_its_bytes_intact_and_shown(
    http: httpx.AsyncClient, store: redis.Redis
) -> None:
    execution = new_id()
    answer = await http.post("/v1/executions", json=body(execution))
    told = {"Created": {"execution_id": execution, "public_state": "waiting"}}
    assert (answer.status_code, answer.json()) == (201, told)
    assert store.get(ExecutionKeys.of(ExecutionId(execution)).part("payload")) == b"\x00\xff\n"
    shown = (await http.get(path(execution))).json()
    assert {name: shown[name] for name in ("namespace", "lane_id", "priority", "execution_kind", "flow_id")} == {
        "namespace": "books",
        "lane_id": "default",
        "priority": 3,
        "execution_kind": "job",
        "flow_id": None,
    }
    assert shown["state_vector"]["eligibility_state"] == "eligible_now"
    assert "started_at" not in shown
    assert (await http.get(path(execution, "/state"))).json() == "waiting"


async def test_the_details_are_all_there_is_but_for_what_a_leases_holder_alone_may_know(
    http: httpx.AsyncClient, store: redis.Redis, client: Client
) -> None:
    execution = await created(http)
    keys, world = ExecutionKeys.of(ExecutionId(execution)), World(store)
    assert call_grant(world, keys)[1] == "OK"
    assert call_claim(world, keys, lease_id="the-lease", attempt_id="the-attempt")[1] == "OK"
    answer = await http.get(path(execution, "/details"))
    told, shown = answer.json(), client.show(execution)
    assert answer.status_code == 200
    assert "the-lease" not in answer.text
    assert told["record"] == {name: value for name, value in shown.record.items() if name != "current_lease_id"}
    assert told["tags"] == {"color": "blue"}
    assert told["attempts"] == [
        {name: value for name, value in attempt.items() if name != "lease_id"} for attempt in shown.attempts
    ]
    (event,) = client.history(execution)
    assert told["history"] == [{name: value for name, value in event.items() if name != "lease_id"}]
    assert (shown.record["current_lease_id"], event["lease_id"]) == ("the-lease", "the-lease")


async def test_the_details_of_what_was_never_claimed_have_no_attempts(http: httpx.AsyncClient) -> None:
    told = (await http.get(path(await created(http, tags={}), "/details"))).json()
    assert (told["record"]["public_state"], told["tags"], told["attempts"], told["history"]) == (
        "waiting",
        {},
        [],
        [],
    )


async def test_a_repeated_creation_is_a_duplicate_and_names_the_first(http: httpx.AsyncClient) -> None:
    first, second = new_id(), new_id()
    for execution in (first, second, second):
        answer = await http.post("/v1/executions", json=body(execution, idempotency_key="once"))
    assert (answer.status_code, answer.json()) == (200, {"Duplicate": {"execution_id": first}})


async def test_an_execution_of_a_partition_that_nobody_looks_at_is_refused(http: httpx.AsyncClient) -> None:
    execution = f"{{fp:256}}:{uuid.uuid4()}"
    answer = await http.post("/v1/executions", json=body(execution))
    assert (answer.status_code, answer.json()["error"]) == (400, f"{execution}: there are 256 partitions, from 0 on")


async def test_a_delayed_execution_says_so(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/executions", json=body(new_id(), delay_until=4102444800000))
    assert answer.json()["Created"]["public_state"] == "delayed"


async def test_a_result_comes_as_it_was_stored(http: httpx.AsyncClient, store: redis.Redis) -> None:
    execution = await created(http)
    answer = await http.get(path(execution, "/result"))
    assert (answer.status_code, answer.json()["error"]) == (404, f"execution result not found: {execution}")
    store.set(ExecutionKeys.of(ExecutionId(execution)).part("result"), b"\xff\x00")
    answer = await http.get(path(execution, "/result"))
    assert (answer.content, answer.headers["content-type"]) == (b"\xff\x00", "application/octet-stream")


async def test_an_execution_is_cancelled_and_runs_again(http: httpx.AsyncClient) -> None:
    execution = await created(http)
    wanted = {"execution_id": execution, "reason": "no", "now": 1}
    answer = await http.post(path(execution, "/cancel"), json=wanted)
    assert answer.json() == {"Cancelled": {"execution_id": execution, "public_state": "cancelled"}}
    answer = await http.post(path(execution, "/cancel"), json=wanted)
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "ff_cancel_execution failed: execution_not_active"},
    )
    assert (await http.post(path(execution, "/replay"))).json() == {"Replayed": {"public_state": "waiting"}}
    assert (await http.get(path(execution, "/state"))).json() == "waiting"


async def test_a_skipped_member_that_runs_again_waits_again(http: httpx.AsyncClient, client: Client) -> None:
    flow = client.create_flow()
    top = flow.add("job")
    client.cancel(top)
    child = flow.add("job", after=[top])
    assert client.state(child) == "skipped"
    answer = await http.post(path(child, "/replay"))
    assert answer.json() == {"Replayed": {"public_state": "waiting_children"}}


async def test_a_priority_is_changed(http: httpx.AsyncClient) -> None:
    execution = await created(http)
    answer = await http.put(path(execution, "/priority"), json={"new_priority": 7})
    assert answer.json() == {"Changed": {"execution_id": execution}}
    assert (await http.get(path(execution))).json()["priority"] == 7


async def claim(http: httpx.AsyncClient, worker: str = "pool", **changes: Any) -> httpx.Response:
    wanted = {"lane_id": "default", "worker_instance_id": "pool-1", "capabilities": [], "grant_ttl_ms": 5_000}
    return await http.post(f"/v1/workers/{worker}/claim", json={**wanted, **changes})


async def test_a_worker_is_granted_what_there_is_then_nothing(http: httpx.AsyncClient, store: redis.Redis) -> None:
    execution = await created(http)
    answer = await claim(http)
    granted = answer.json()
    keys = ExecutionKeys.of(ExecutionId(execution))
    assert granted.pop("expires_at_ms") > 1_600_000_000_000
    assert granted == {
        "execution_id": execution,
        "partition_family": "execution",
        "partition_index": 86,
        "grant_key": keys.part("claim_grant"),
    }
    assert store.hget(keys.part("claim_grant"), "worker_id") == b"pool"
    answer = await claim(http)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("worker", "changes", "told"),
    [
        ("a%20b", {}, "worker_id"),
        ("pool", {"worker_instance_id": ""}, "worker_instance_id"),
        ("pool", {"worker_instance_id": "x" * 257}, "worker_instance_id"),
        ("pool", {"grant_ttl_ms": 0}, "grant_ttl_ms"),
        ("pool", {"grant_ttl_ms": 60_001}, "grant_ttl_ms"),
        ("pool", {"lane_id": "x" * 65}, "lane"),
        ("pool", {"capabilities": ["a,b"]}, "capabilities"),
        ("pool", {"capabilities": [""]}, "capabilities"),
    ],
)
async def test_a_claim_that_makes_no_sense_is_told_what_is_wrong(
    http: httpx.AsyncClient, worker: str, changes: dict[str, Any], told: str
) -> None:
    answer = await claim(http, worker, **changes)
    assert answer.status_code == 400
    assert told in answer.json()["error"]


async def test_a_lease_is_revoked_and_its_holder_named(http: httpx.AsyncClient, store: redis.Redis) -> None:
    execution = await created(http)
    answer = await http.post(path(execution, "/revoke-lease"))
    assert (answer.status_code, answer.json()["error"]) == (404, f"no active lease: {execution}")
    held = {"lifecycle_phase": "active", "ownership_state": "leased", "current_worker_instance_id": "w"}
    fields: dict[Any, Any] = {**held, "current_lease_id": "lease", "current_lease_epoch": "4"}
    store.hset(ExecutionKeys.of(ExecutionId(execution)).core, mapping=fields)
    answer = await http.post(path(execution, "/revoke-lease"))
    assert answer.json() == {"Revoked": {"lease_id": "lease", "lease_epoch": "4"}}
    answer = await http.post(path(execution, "/revoke-lease"))
    assert answer.json() == {"AlreadySatisfied": {"reason": "already_revoked"}}


@pytest.mark.parametrize(
    "rest",
    ["", "/details", "/state", "/cancel", "/priority", "/replay", "/revoke-lease"],
    ids=lambda rest: rest or "show",
)
async def test_an_execution_that_is_not_there_is_not_found(http: httpx.AsyncClient, rest: str) -> None:
    execution = new_id()
    bodies: dict[str, Any] = {
        "/cancel": {"execution_id": execution, "reason": "no", "now": 1},
        "/priority": {"new_priority": 1},
    }
    method = {"": "GET", "/details": "GET", "/state": "GET", "/priority": "PUT"}.get(rest, "POST")
    answer = await http.request(method, path(execution, rest), json=bodies.get(rest))
    assert (answer.status_code, answer.json()["error"]) == (404, f"execution not found: {execution}")
    answer = await http.request(method, path("nonsense", rest), json=bodies.get(rest))
    assert answer.status_code == 400
    assert "is not an execution id" in answer.json()["error"]


@pytest.mark.parametrize(
    "changes",
    [
        {"execution_id": "nonsense"},
        {"execution_id": "{fp:65536}:0b1f9e9c-0000-4000-8000-000000000000"},
        {"lane_id": ""},
        {"lane_id": "ä"},
        {"input_payload": [256]},
        {"input_payload": "text"},
        {"priority": "3"},
        {"priority": 2**31},
        {"tags": {"a": 1}},
        {"policy": []},
        {"now": None},
        {"delay_until": 10**400},
        {"delay_until": -1},
        {"namespace": "x" * 257},
    ],
    ids=str,
)
async def test_a_body_with_wrong_data_is_told_its_place(http: httpx.AsyncClient, changes: dict[str, Any]) -> None:
    answer = await http.post("/v1/executions", json=body(new_id(), **changes))
    assert answer.status_code == 422
    (name,) = changes
    assert answer.json()["error"].startswith("invalid JSON: Unprocessable Entity")
    assert name in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "content", "status", "told"),
    [
        ({"content-type": "application/json"}, b"{bad", 400, "invalid JSON: Bad Request"),
        ({"content-type": "application/json"}, b"", 400, "invalid JSON: Bad Request"),
        ({"content-type": "application/json"}, b'{"namespace": "\xff"}', 400, "invalid JSON: Bad Request"),
        ({"content-type": "application/json"}, b"[" * 100_000, 400, "invalid JSON: Bad Request"),
        ({"content-type": "text/plain"}, b"{}", 415, "invalid JSON: Unsupported Media Type"),
        ({}, b"{}", 415, "invalid JSON: Unsupported Media Type"),
    ],
)
async def test_a_body_that_is_none_is_told_by_the_protocols_phrase(
    http: httpx.AsyncClient, headers: dict[str, str], content: bytes, status: int, told: str
) -> None:
    answer = await http.post("/v1/executions", content=content, headers=headers)
    assert (answer.status_code, answer.json()) == (status, {"error": told})


async def test_a_path_with_a_slash_too_many_is_unknown(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz/")).status_code == 404


@pytest.mark.parametrize("name", ["namespace", "execution_kind", "creator_identity", "idempotency_key", "tags"])
async def test_half_a_character_is_told_its_place(http: httpx.AsyncClient, name: str) -> None:
    half: Any = {"\ud800": "\ud800"} if name == "tags" else "\ud800"
    content = json.dumps(body(new_id(), **{name: half}))
    answer = await http.post("/v1/executions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert name in answer.json()["error"]


async def test_a_worker_whose_name_is_half_a_character_is_refused(http: httpx.AsyncClient) -> None:
    wanted = {"lane_id": "default", "worker_instance_id": "\ud800", "grant_ttl_ms": 1}
    headers = {"content-type": "application/json"}
    answer = await http.post("/v1/workers/pool/claim", content=json.dumps(wanted), headers=headers)
    assert answer.status_code == 422


async def test_requests_that_are_none_are_told_so(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    answer = await http.post("/v1/executions", content=b"{bad", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid JSON: Bad Request")
    answer = await http.post("/v1/executions", content=b"x" * (MAX_BODY_BYTES + 1), headers=headers)
    assert answer.status_code == 413
    answer = await http.get("/v1/nothing")
    assert (answer.status_code, answer.content) == (404, b"")
    answer = await http.delete("/v1/executions")
    assert (answer.status_code, answer.content) == (405, b"")
    refused = body(new_id(), policy={"routing_requirements": 5})
    answer = await http.post("/v1/executions", json=refused)
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "ff_create_execution failed: invalid_policy_json"},
    )
    other = await created(http)
    answer = await http.post(path(other, "/cancel"), json={"execution_id": new_id(), "reason": "no", "now": 1})
    assert (answer.status_code, answer.json()["error"]) == (400, "path execution_id does not match body execution_id")


async def test_with_a_token_everything_but_health_needs_it(settings: StoreConfig, client: Client) -> None:
    async with serving(settings, ServerConfig(token="secret")) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        for given in (None, "Bearer wrong", "bearer secret", "Bearer  secret", "secret", "Bearer sécret"):
            headers = {} if given is None else {"authorization": given.encode()}
            answer = await http.get("/v1/nothing", headers=headers)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()) == (401, {"error": "missing or invalid Authorization header"})
        answer = await http.get("/v1/nothing", headers={"authorization": "Bearer secret"})
        assert answer.status_code == 404


async def test_a_store_that_is_away_is_told_as_something_to_try_again() -> None:
    async with serving(StoreConfig(url="redis://127.0.0.1:1", timeout_s=1.0)) as http:
        for answer in (await http.get("/healthz"), await http.get(path(new_id())), await claim(http)):
            told = answer.json()
            assert (answer.status_code, told["kind"], told["retryable"]) == (500, "io_error", True)


async def test_a_damaged_record_is_told_without_a_traceback(http: httpx.AsyncClient, store: redis.Redis) -> None:
    execution = ExecutionId(new_id())
    store.set(ExecutionKeys.of(execution).core, "no hash")
    for rest in ("", "/details"):
        answer = await http.get(path(execution, rest))
        assert (answer.status_code, answer.json()["retryable"]) == (500, False)
    assert LANE


async def listed(http: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await http.get("/v1/executions", params={"partition": 86, **query})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["executions"]
    assert answer.json()["total_returned"] == len(found)
    return found


async def test_a_partition_is_listed_in_the_order_in_which_it_is_claimed(http: httpx.AsyncClient) -> None:
    low, high, middle = [await created(http, priority=priority) for priority in (1, 3, 2)]
    found = await listed(http)
    assert [one["execution_id"] for one in found] == [high, middle, low]
    assert int(found[0].pop("created_at")) > 1_600_000_000_000
    assert found[0] == {
        "execution_id": high,
        "namespace": "books",
        "lane_id": "default",
        "execution_kind": "job",
        "public_state": "waiting",
        "priority": 3,
    }
    assert [one["execution_id"] for one in await listed(http, offset=1, limit=1)] == [middle]
    assert await listed(http, limit=0) == []
    assert await listed(http, partition=87) == []
    assert await listed(http, lane="other") == []


async def test_other_states_are_listed_too(http: httpx.AsyncClient, store: redis.Redis) -> None:
    delayed = await created(http, delay_until=4102444800000)
    assert [one["execution_id"] for one in await listed(http, state="delayed")] == [delayed]
    needy = await created(http, policy={"routing_requirements": {"required_capabilities": ["gpu"]}})
    assert (await claim(http)).status_code == 204
    assert [one["execution_id"] for one in await listed(http, state="blocked:route")] == [needy]
    # What is in an index without being an execution is left out, or shown without a record.
    store.zadd("ff:idx:{fp:86}:lane:default:suspended", {"nonsense": 1.0, new_id(): 2.0})
    (gone,) = await listed(http, state="suspended")
    assert (gone["public_state"], gone["priority"]) == ("", 0)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({}, "partition"),
        ({"partition": "x"}, "partition"),
        ({"partition": 65_536}, "partition"),
        ({"partition": 1, "state": "waiting"}, "state"),
        ({"partition": 1, "lane": "ä"}, "lane"),
        ({"partition": 1, "limit": -1}, "limit"),
        ({"partition": 1, "offset": -1}, "offset"),
    ],
    ids=str,
)
async def test_a_list_that_makes_no_sense_is_refused(http: httpx.AsyncClient, query: Any, told: str) -> None:
    answer = await http.get("/v1/executions", params=query)
    assert answer.status_code == 400
    assert told in answer.json()["error"]
