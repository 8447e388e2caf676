"""The routes for who runs the store, and what every request meets first."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import redis

from ffsuper.client import Client
from ffsuper.config import ServerConfig, StoreConfig
from ffsuper.server.guard import MAX_BODY_BYTES
from ffsuper.store.keys import PartitionKeys
from tests.server.serving import COUNTS, serving

ROTATE = "/v1/admin/rotate-waitpoint-secret"
ORIGIN = "https://app.example.org"


@pytest.fixture
async def http(settings: StoreConfig, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(settings) as sender:
        yield sender


async def rotate(http: httpx.AsyncClient, kid: str = "k2", secret: str = "ab" * 32) -> httpx.Response:
    return await http.post(ROTATE, json={"new_kid": kid, "new_secret_hex": secret})


async def test_a_secret_is_changed_on_all_partitions_and_a_repeat_changes_nothing(
    http: httpx.AsyncClient, store: redis.Redis
) -> None:
    told = {"rotated": COUNTS.flow, "failed": [], "in_progress": [], "new_kid": "k2"}
    for _ in range(2):
        assert (await rotate(http)).json() == told
    for number in (0, 255):
        stored = store.hgetall(PartitionKeys.of_index(number).waitpoint_hmac)
        assert (stored[b"current_kid"], stored[b"secret:k2"], stored[b"previous_kid"]) == (b"k2", b"ab" * 32, b"k1")


async def test_a_partition_that_another_server_is_busy_with_is_left_to_it(
    http: httpx.AsyncClient, store: redis.Redis
) -> None:
    store.set(PartitionKeys.of_index(3).rotate_lock, "1", px=10_000)
    answer = (await rotate(http)).json()
    assert (answer["rotated"], answer["in_progress"]) == (COUNTS.flow - 1, [3])


async def test_a_key_id_cannot_get_another_secret(http: httpx.AsyncClient) -> None:
    await rotate(http)
    answer = await rotate(http, secret="cd" * 32)
    assert answer.status_code == 400
    assert "kid_in_use (k2)" in answer.json()["error"]


@pytest.mark.parametrize(
    ("kid", "secret"), [("", "ab"), ("a:b", "ab"), ("k\n", "ab"), ("k", ""), ("k", "abc"), ("k", "xy")]
)
async def test_a_secret_that_is_none_is_refused(http: httpx.AsyncClient, kid: str, secret: str) -> None:
    answer = await rotate(http, kid, secret)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("new_")


async def test_the_partitions_are_told(http: httpx.AsyncClient) -> None:
    told = {"num_flow_partitions": 256, "num_budget_partitions": 32, "num_quota_partitions": 32}
    assert (await http.get("/v1/partitions")).json() == told


async def test_requests_are_counted_by_route(http: httpx.AsyncClient) -> None:
    await http.get("/v1/executions/nonsense/state")
    await http.get("/v1/nothing/of/the/kind")
    text = (await http.get("/metrics")).text
    counted = 'ffsuper_http_requests_total{method="GET",route="/v1/executions/{execution_id}/state",status="400"} 1.0'
    assert counted in text
    assert 'ffsuper_http_requests_total{method="GET",route="",status="404"} 1.0' in text
    assert "nonsense" not in text


async def test_methods_that_callers_invent_are_counted_as_one(http: httpx.AsyncClient) -> None:
    for number in range(3):
        await http.request(f"INVENTED{number}", "/healthz")
    text = (await http.get("/metrics")).text
    assert 'ffsuper_http_requests_total{method="other",route="/healthz",status="405"} 3.0' in text
    assert "INVENTED" not in text


async def test_a_body_without_a_length_is_counted_as_it_comes(http: httpx.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65_536 + 1):
            yield b" " * 65_536

    headers = {"content-type": "application/json"}
    answer = await http.post("/v1/executions", content=parts(), headers=headers)
    assert (answer.status_code, answer.json()) == (413, {"error": "invalid JSON: Content Too Large"})


async def test_web_pages_may_not_ask_unless_told(settings: StoreConfig, client: Client) -> None:
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "PUT",
        "access-control-request-headers": "authorization",
    }
    async with serving(settings) as http:
        answer = await http.get("/healthz", headers={"origin": ORIGIN})
        assert "access-control-allow-origin" not in answer.headers
        assert (await http.options("/healthz", headers=asked)).status_code == 405
    async with serving(settings, ServerConfig(token="secret", cors_origins=(ORIGIN,))) as http:
        answer = await http.options("/v1/executions", headers=asked)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert (await http.options("/v1/executions", headers={**asked, "origin": "https://evil"})).status_code == 400
        answer = await http.get("/v1/partitions", headers={"origin": ORIGIN})
        assert answer.status_code == 401
