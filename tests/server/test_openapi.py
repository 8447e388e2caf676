"""The OpenAPI document, and answers that are the same everywhere; ``tests/system/test_server.py`` has the others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ffsuper.client import Client
from ffsuper.config import ServerConfig, StoreConfig
from ffsuper.server.answers import Failure
from ffsuper.server.guard import MAX_BODY_BYTES
from tests.server.serving import serving

FAILURE = {"schema": {"$ref": "#/components/schemas/Failure"}}
ID = str(uuid.UUID(int=1))
IDS = {"execution_id": f"%7Bfp%3A7%7D%3A{ID}", "budget_id": ID, "flow_id": ID, "worker_id": "pool", "index": "0"}
AUTHORIZED = {"authorization": "Bearer secret"}


async def read(http: httpx.AsyncClient) -> Any:
    return (await http.get("/openapi.json", headers=AUTHORIZED)).json()


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield method, path and description of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def assert_closed(schema: Any, document: Any) -> None:
    """Assert that a schema, and whatever is inside, says what there is and that there is nothing else."""
    assert schema
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    more = schema.get("additionalProperties")
    if schema.get("type") == "object":
        assert more is False or more == {"type": more["type"]}
    for inside in (*schema.get("properties", {}).values(), *schema.get("anyOf", ())):
        assert_closed(inside, document)
    if schema.get("type") == "array":
        assert_closed(schema["items"], document)


async def test_every_answer_has_a_shape_and_all_failures_have_the_same(settings: StoreConfig, client: Client) -> None:
    async with serving(settings) as http:
        document = await read(http)
    for _, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status == "204":
                assert "content" not in answer
                continue
            (content,) = answer["content"].values()
            assert_closed(content["schema"], document)
            assert (content == FAILURE) is (int(status) >= 400)


@pytest.mark.parametrize("token", ["", "secret"])
async def test_the_token_is_described_and_may_be_left_out_where_there_is_none(
    settings: StoreConfig, client: Client, token: str
) -> None:
    async with serving(settings, ServerConfig(token=token)) as http:
        document = await read(http)
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"token": []}] + ([] if token else [{}])
    assert [path for _, path, operation in operations(document) if operation.get("security") == []] == ["/healthz"]


async def failures(http: httpx.AsyncClient, status: int, *, bare: bool = False, **request: Any) -> list[str]:
    """Send a request of each operation, which fails so if the document knows of that; return the others' paths.

    Args:
        bare: only of operations that take no body.
    """
    others = []
    for method, path, operation in operations(await read(http)):
        if bare and "requestBody" in operation:
            continue
        answer = await http.request(method, path.format(**IDS), **request)
        if str(status) in operation["responses"]:
            assert answer.status_code == status, path
            Failure.model_validate(answer.json())
        else:
            assert answer.status_code < 400, path
            others.append(path)
    return others


async def test_without_the_token_and_with_a_large_body_requests_fail_as_described(
    settings: StoreConfig, client: Client
) -> None:
    async with serving(settings, ServerConfig(token="secret")) as http:
        assert await failures(http, 401) == ["/healthz"]
        large: dict[str, Any] = {"content": b" " * (MAX_BODY_BYTES + 1), "headers": AUTHORIZED}
        assert await failures(http, 413, **large) == []


async def test_without_the_store_requests_fail_as_described() -> None:
    async with serving(StoreConfig(url="redis://127.0.0.1:1", timeout_s=1.0)) as http:
        assert await failures(http, 500, bare=True, params={"partition": 1}) == ["/v1/partitions", "/metrics"]
