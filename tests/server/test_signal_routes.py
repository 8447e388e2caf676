"""Waitpoints and signals over HTTP, on a real store."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from tests.lua.suspensions import (
    CREATED_AT,
    EXECUTION,
    FAR_MS,
    KEYS,
    OTHER,
    WAITPOINT,
    WAITPOINT_KEY,
    put_active,
    put_pending,
    put_suspended,
)
from tests.lua.world import World
from tests.server.serving import serving

PATH = f"/v1/executions/{quote(EXECUTION, safe='')}"
GO = {"condition_type": "signal_set", "required_signal_names": ["go", "on"], "signal_match_mode": "all"}


@pytest.fixture
async def http(settings: StoreConfig, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as sender:
        yield sender


@pytest.fixture
def world(store: redis.Redis, client: Client) -> World:
    return World(store)


def signal(token: str, **changes: Any) -> dict[str, Any]:
    return {
        "execution_id": EXECUTION,
        "waitpoint_id": WAITPOINT,
        "signal_id": str(uuid.uuid4()),
        "signal_name": "go",
        "signal_category": "external",
        "source_type": "person",
        "source_identity": "ann",
        "payload": [123, 125, 255],
        "payload_encoding": "json",
        "target_scope": "waitpoint",
        "waitpoint_token": token,
        "now": CREATED_AT,
        **changes,
    }


async def test_a_waitpoint_is_shown_with_all_it_takes_to_signal_it(http: httpx.AsyncClient, world: World) -> None:
    token = put_suspended(world, GO)
    (point,) = (await http.get(f"{PATH}/pending-waitpoints")).json()
    created_at, activated_at = point.pop("created_at"), point.pop("activated_at")
    assert 1_600_000_000_000 < created_at <= activated_at
    assert point == {
        "waitpoint_id": WAITPOINT,
        "waitpoint_key": WAITPOINT_KEY,
        "state": "active",
        "waitpoint_token": token,
        "required_signal_names": ["go", "on"],
    }


async def test_an_execution_that_waits_for_nothing_shows_no_waitpoints(http: httpx.AsyncClient, world: World) -> None:
    put_active(world)
    assert (await http.get(f"{PATH}/pending-waitpoints")).json() == []


async def test_signals_are_taken_until_the_execution_resumes(http: httpx.AsyncClient, world: World) -> None:
    token = put_suspended(world, GO)
    wanted = signal(token, idempotency_key="first", correlation_id="c-1", source_identity="bob")
    for effect in ("appended_to_waitpoint", None):
        answer = (await http.post(f"{PATH}/signal", json=wanted)).json()
        told = {"Accepted": {"signal_id": wanted["signal_id"], "effect": effect}}
        assert answer == (told if effect else {"Duplicate": {"existing_signal_id": wanted["signal_id"]}})
    answer = await http.post(f"{PATH}/signal", json=signal(token, signal_name="on"))
    assert answer.json()["Accepted"]["effect"] == "resume_condition_satisfied"
    assert (await http.get(f"{PATH}/state")).json() == "waiting"
    record = world.value(KEYS.signal(wanted["signal_id"]))
    assert (record["source_identity"], record["correlation_id"]) == ("bob", "c-1")
    assert world.redis.get(KEYS.signal(wanted["signal_id"], "payload")) == b"{}\xff"


async def test_a_signal_for_a_suspension_that_is_still_to_come_is_kept(http: httpx.AsyncClient, world: World) -> None:
    put_active(world)
    token = put_pending(world)
    answer = await http.post(f"{PATH}/signal", json=signal(token))
    assert answer.json()["Accepted"]["effect"] == "buffered_for_pending_waitpoint"


async def test_a_signal_with_a_wrong_token_is_refused(http: httpx.AsyncClient, world: World) -> None:
    put_suspended(world, GO)
    answer = await http.post(f"{PATH}/signal", json=signal("k1:" + "0" * 40))
    assert (answer.status_code, answer.json()) == (400, {"error": "ff_deliver_signal failed: invalid_token"})


async def test_signals_that_fit_nowhere_are_told_so(http: httpx.AsyncClient, world: World) -> None:
    token = put_suspended(world, GO)
    answer = await http.post(f"{PATH}/signal", json=signal(token, execution_id=OTHER))
    assert (answer.status_code, answer.json()["error"]) == (400, "path execution_id does not match body execution_id")
    other = f"/v1/executions/{quote(OTHER, safe='')}"
    for method, rest, body in (
        ("POST", "signal", signal(token, execution_id=OTHER)),
        ("GET", "pending-waitpoints", None),
    ):
        answer = await http.request(method, f"{other}/{rest}", json=body)
        assert (answer.status_code, answer.json()["error"]) == (404, f"execution not found: {OTHER}")


@pytest.mark.parametrize(
    "changes",
    [
        {"signal_id": "nonsense"},
        {"waitpoint_id": "nonsense"},
        {"payload": [256]},
        {"dedup_ttl_ms": 0},
        {"dedup_ttl_ms": FAR_MS * 1000},
        {"waitpoint_token": None},
    ],
    ids=str,
)
async def test_a_signal_with_wrong_data_is_told_its_place(
    http: httpx.AsyncClient, world: World, changes: dict[str, Any]
) -> None:
    token = put_suspended(world, GO)
    answer = await http.post(f"{PATH}/signal", json=signal(token, **changes))
    (name,) = changes
    assert answer.status_code == 422
    assert name in answer.json()["error"]
