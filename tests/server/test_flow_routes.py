"""Flows over HTTP, on a real store."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import redis

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.store.keys import flow_keys
from tests.server.serving import COUNTS, serving

FLOW = "550e8400-e29b-41d4-a716-446655440000"
PATH = f"/v1/flows/{FLOW}"


@pytest.fixture
async def http(settings: StoreConfig, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as sender:
        yield sender


async def create_flow(http: httpx.AsyncClient) -> None:
    wanted = {"flow_id": FLOW, "flow_kind": "report", "namespace": "books", "now": 1}
    assert (await http.post("/v1/flows", json=wanted)).json() == {"Created": {"flow_id": FLOW}}


async def create_execution(http: httpx.AsyncClient, partition: int = 24) -> str:
    execution = f"{{fp:{partition}}}:{uuid.uuid4()}"
    wanted = {"execution_id": execution, "namespace": "books", "lane_id": "default", "execution_kind": "job"}
    rest = {"input_payload": [], "priority": 0, "creator_identity": "ann", "partition_id": partition, "now": 1}
    assert (await http.post("/v1/executions", json=wanted | rest)).status_code == 201
    return execution


async def add(http: httpx.AsyncClient, execution: str) -> httpx.Response:
    return await http.post(f"{PATH}/members", json={"flow_id": FLOW, "execution_id": execution, "now": 1})


async def members(http: httpx.AsyncClient, count: int) -> list[str]:
    found = [await create_execution(http) for _ in range(count)]
    for one in found:
        assert (await add(http, one)).status_code == 201
    return found


def edge(upstream: str, downstream: str, **changes: Any) -> dict[str, Any]:
    ends = {"upstream_execution_id": upstream, "downstream_execution_id": downstream}
    return {
        "flow_id": FLOW,
        "edge_id": str(uuid.uuid4()),
        **ends,
        "dependency_kind": "success_only",
        "now": 1,
        **changes,
    }


async def test_a_flow_is_created_once(http: httpx.AsyncClient) -> None:
    await create_flow(http)
    wanted = {"flow_id": FLOW, "flow_kind": "report", "namespace": "books", "now": 1}
    answer = await http.post("/v1/flows", json=wanted)
    assert (answer.status_code, answer.json()) == (200, {"AlreadySatisfied": {"flow_id": FLOW}})


async def test_executions_become_members_once(http: httpx.AsyncClient) -> None:
    await create_flow(http)
    first, second = await create_execution(http), await create_execution(http)
    assert (await add(http, first)).json() == {"Added": {"execution_id": first, "new_node_count": 1}}
    assert (await add(http, second)).json() == {"Added": {"execution_id": second, "new_node_count": 2}}
    answer = await add(http, first)
    assert (answer.status_code, answer.json()) == (200, {"AlreadyMember": {"execution_id": first, "node_count": 2}})


async def test_an_execution_of_another_partition_cannot_be_a_member(http: httpx.AsyncClient) -> None:
    await create_flow(http)
    other = await create_execution(http, partition=25)
    near = await create_execution(http)
    rejected = [await add(http, other)]
    for one, two in ((other, near), (near, other)):
        rejected.append(await http.post(f"{PATH}/edges", json=edge(one, two, expected_graph_revision=0)))
        rejected.append(await http.post(f"{PATH}/edges/apply", json=edge(one, two, graph_revision=0)))
    for answer in rejected:
        assert (answer.status_code, answer.json()["retryable"]) == (400, False)
        assert answer.json()["error"].startswith(f"partition mismatch: {other} is not on {{fp:24}}")


async def test_a_child_waits_for_what_an_edge_says(http: httpx.AsyncClient, client: Client) -> None:
    await create_flow(http)
    top, child = await members(http, 2)
    wanted = edge(top, child, expected_graph_revision=2)
    answer = await http.post(f"{PATH}/edges", json=wanted)
    assert (answer.status_code, answer.json()) == (
        201,
        {"Staged": {"edge_id": wanted["edge_id"], "new_graph_revision": 3}},
    )
    applied = edge(top, child, edge_id=wanted["edge_id"], graph_revision=3)
    assert (await http.post(f"{PATH}/edges/apply", json=applied)).json() == {"Applied": {"unsatisfied_count": 1}}
    assert (await http.post(f"{PATH}/edges/apply", json=applied)).json() == "AlreadyApplied"
    assert client.state(child) == "waiting_children"
    stale = await http.post(f"{PATH}/edges", json=edge(child, top, expected_graph_revision=2))
    assert (stale.status_code, stale.json()["error"]) == (
        400,
        "ff_stage_dependency_edge failed: stale_graph_revision",
    )
    cycle = await http.post(f"{PATH}/edges", json=edge(child, top, expected_graph_revision=3))
    assert (cycle.status_code, cycle.json()["error"]) == (400, "ff_stage_dependency_edge failed: cycle_detected")


async def cancel(http: httpx.AsyncClient, policy: str = "cancel_all", wait: str = "") -> Any:
    body = {"flow_id": FLOW, "reason": "no more", "cancellation_policy": policy, "now": 1}
    answer = await http.post(f"{PATH}/cancel", json=body, params={"wait": wait} if wait else {})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_cancelled_flow_takes_its_members_along(http: httpx.AsyncClient, client: Client) -> None:
    await create_flow(http)
    found = sorted(await members(http, 20))
    told = {"cancellation_policy": "cancel_all", "member_execution_ids": found}
    assert await cancel(http, wait="true") == {"Cancelled": told}
    assert {client.state(one) for one in found} == {"cancelled"}


async def test_members_are_cancelled_behind_the_answer_when_nobody_waits(
    settings: StoreConfig, client: Client
) -> None:
    async with serving(settings) as http:
        await create_flow(http)
        found = sorted(await members(http, 20))
        told = {"cancellation_policy": "cancel_all", "member_count": 20, "member_execution_ids": found}
        assert await cancel(http) == {"CancellationScheduled": told}
    assert {client.state(one) for one in found} == {"cancelled"}


async def test_a_repeated_cancellation_goes_on_with_members_that_were_left(
    http: httpx.AsyncClient, client: Client, store: redis.Redis
) -> None:
    await create_flow(http)
    found = sorted(await members(http, 2))
    # As when the server dies after the first step.
    store.hset(
        flow_keys(FLOW, COUNTS.flow).core,
        mapping={"public_flow_state": "cancelled", "cancellation_policy": "cancel_all"},
    )
    told = {"cancellation_policy": "cancel_all", "member_execution_ids": found}
    assert await cancel(http, policy="none", wait="1") == {"Cancelled": told}
    assert {client.state(one) for one in found} == {"cancelled"}


async def test_another_policy_leaves_the_members_alone(http: httpx.AsyncClient, client: Client) -> None:
    await create_flow(http)
    (one,) = await members(http, 1)
    told = {"cancellation_policy": "leave", "member_execution_ids": [one]}
    assert await cancel(http, policy="leave") == {"Cancelled": told}
    assert client.state(one) == "waiting"


async def test_a_flow_that_is_not_there_is_told(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        f"{PATH}/cancel", json={"flow_id": FLOW, "reason": "no", "cancellation_policy": "cancel_all", "now": 1}
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "ff_cancel_flow failed: flow_not_found")
    other = str(uuid.uuid4())
    answer = await http.post(
        f"/v1/flows/{other}/members", json={"flow_id": FLOW, "execution_id": f"{{fp:24}}:{other}", "now": 1}
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "path flow_id does not match body flow_id")
