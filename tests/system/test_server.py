"""``ffsuper server`` as a process, with a worker that gets its work from it."""

from __future__ import annotations

import signal
import socket
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
import schemathesis
from hypothesis import Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ffsuper.client import Client
from ffsuper.sansio.partition import partition_of
from ffsuper.store.keys import PartitionKeys
from ffsuper.store.secrets import KID
from tests.system.workers import LIMIT_S, Worker, Workers, eventually


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(workers: Workers, port: int) -> Worker:
    server = workers.launch_server("server", listen=f"127.0.0.1:{port}")
    server.wait_for("ready")
    eventually(lambda: reached(port), "the server")
    return server


def reached(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_worker_gets_its_work_from_the_server_and_goes_on_when_that_is_started_again(
    workers: Workers, client: Client
) -> None:
    port = free_port()
    server = start_server(workers, port)
    workers.start(engine="false", source="server", server_url=f"http://127.0.0.1:{port}")
    assert client.wait(client.submit("echo", b"x"), LIMIT_S).state == "completed"
    assert client.wait(client.submit("echo", b"x", delay=0.5), LIMIT_S).state == "completed"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    waiting = client.submit("echo", b"x")
    start_server(workers, port)
    assert client.wait(waiting, LIMIT_S).state == "completed"


def test_executions_are_submitted_and_seen_by_anybody_with_http(workers: Workers, client: Client) -> None:
    port = free_port()
    start_server(workers, port)
    workers.start(engine="false")
    execution = f"{{fp:86}}:{uuid.uuid4()}"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        wanted = {"execution_id": execution, "namespace": "n", "lane_id": "default", "execution_kind": "echo"}
        rest = {"input_payload": [104, 105], "priority": 0, "creator_identity": "me", "partition_id": 86, "now": 1}
        assert http.post("/v1/executions", json=wanted | rest).status_code == 201
        assert client.wait(execution, LIMIT_S).state == "completed"
        path = f"/v1/executions/{execution.replace('{', '%7B').replace('}', '%7D')}"
        assert http.get(f"{path}/state").json() == "completed"
        assert http.get(f"{path}/result").content == b"hi"


def test_partitions_that_have_lost_their_secrets_get_them_again(
    workers: Workers, client: Client, store: redis.Redis
) -> None:
    lost, damaged = (PartitionKeys.of_index(number).waitpoint_hmac for number in (3, 4))
    store.delete(lost)
    store.hdel(damaged, f"secret:{KID}")
    start_server(workers, free_port())
    assert all(store.hget(one, f"secret:{KID}") for one in (lost, damaged))


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:99999", "127.0.0.1"])
def test_an_address_that_is_none_is_told(workers: Workers, listen: str) -> None:
    server = workers.launch_server("server", listen=listen)
    assert server.wait() == 78
    assert "listen" in server.log_path.read_text()


def test_an_address_that_is_taken_is_told(workers: Workers, tmp_path: Path) -> None:
    port = free_port()
    start_server(workers, port)
    second = workers.launch_server("second", listen=f"127.0.0.1:{port}")
    assert second.wait() == 78
    assert "in use" in second.log_path.read_text()
    assert "Traceback" not in second.log_path.read_text()


Members = dict[str, Any]
Operation = schemathesis.APIOperation[Any, Any, Any, Any]
FLOW, EDGE, BUDGET, QUOTA, SIGNAL = "550e8400-e29b-41d4-a716-446655440000", *(str(uuid.UUID(int=n)) for n in range(4))
# Executions of the flow's partition; the last one is never created.
FIRST, SECOND, THIRD, LATER, NONE = (f"{{fp:24}}:{uuid.UUID(int=n)}" for n in range(5))
NOWHERE = {"execution_id": NONE, "downstream_execution_id": NONE, "budget_id": str(uuid.UUID(int=9))}
FAR_MS = 4_102_444_800_000
# What would wait for longer waits for so long.
SHORT_MS = 20
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def requests_that_succeed(workers: Workers, client: Client, folder: Path) -> dict[str, list[Members]]:
    """Return what is put into requests, in path, query and body, for each operation's successes.

    They build on one another, in the document's order.
    """
    worker = workers.start(lanes='["busy"]', engine="false", ttl_ms=600_000)
    done = client.submit("echo", b"x", lane="busy")
    failed = client.submit("stream", 3, lane="busy", policy={"retry_policy": {"max_retries": 0}})
    suspended = client.submit("approval", {"signals": ["go", "on"]}, lane="busy")
    states = {done: "completed", failed: "failed", suspended: "suspended"}
    eventually(lambda: {one: client.state(one) for one in states} == states, "executions in all states")
    leased = client.submit("wait-for-file", {"folder": str(folder)}, lane="busy")
    eventually(lambda: client.state(leased) == "active", "a lease")
    worker.process.kill()
    worker.wait()
    client.submit("job", lane="idle")
    point = client.waitpoint(suspended)
    assert point is not None
    some = [{"execution_id": one} for one in (*states, leased, FIRST, LATER)]
    plain: Members = {"lane_id": "default", "policy": None, "delay_until": None, "execution_deadline_at": None}
    plain |= {"idempotency_key": None, "priority": 0}
    signal: Members = {"execution_id": suspended, "waitpoint_id": point.id, "waitpoint_token": point.token}
    signal |= {"signal_id": SIGNAL, "payload": [1], "created_at": 1, "now": 1}
    signal |= {"dedup_ttl_ms": 60_000, "signal_maxlen": 9, "max_signals_per_execution": 9}
    claim: Members = {"worker_id": "pool", "worker_instance_id": "pool-1", "capabilities": [], "grant_ttl_ms": 60_000}
    member: Members = {"flow_id": FLOW, "now": 1}
    edge = member | {"edge_id": EDGE, "dependency_kind": "success_only", "data_passing_ref": None}
    edge |= {"upstream_execution_id": FIRST, "downstream_execution_id": SECOND}
    output: Members = {"execution_id": failed, "index": 0, "from": "-", "to": "+", "limit": 9}
    budget: Members = {"budget_id": BUDGET, "reset_interval_ms": 60_000, "dimensions": ["tokens"]}
    lease: Members = {"source": "operator_override", "lease_id": None, "lease_epoch": None, "attempt_id": None}
    return {
        "GET /v1/executions": [
            {"partition": partition_of(done), "lane": "busy", "state": state, "limit": 9, "offset": 0}
            for state in ("terminal", "suspended", "active")
        ],
        "POST /v1/executions": [
            *(plain | {"execution_id": one} for one in (FIRST, SECOND, THIRD)),
            plain | {"execution_id": LATER, "delay_until": FAR_MS},
        ],
        "GET /v1/executions/{execution_id}": some,
        "GET /v1/executions/{execution_id}/details": some,
        "GET /v1/executions/{execution_id}/state": some,
        "GET /v1/executions/{execution_id}/result": some,
        "POST /v1/executions/{execution_id}/cancel": [lease | {"execution_id": THIRD}],
        "PUT /v1/executions/{execution_id}/priority": [{"execution_id": FIRST, "new_priority": 1}],
        "POST /v1/executions/{execution_id}/replay": [{"execution_id": THIRD}],
        "POST /v1/executions/{execution_id}/revoke-lease": [{"execution_id": leased}],
        "GET /v1/executions/{execution_id}/pending-waitpoints": some,
        "POST /v1/executions/{execution_id}/signal": [
            signal | {"idempotency_key": "once"},
            signal | {"idempotency_key": None, "signal_name": "go"},
        ],
        "GET /v1/executions/{execution_id}/attempts/{index}/stream": [output],
        "GET /v1/executions/{execution_id}/attempts/{index}/stream/tail": [output | {"after": "0-0"}],
        "POST /v1/workers/{worker_id}/claim": [claim | {"lane_id": lane, "wait_ms": 0} for lane in ("idle", "none")],
        "POST /v1/flows": [member],
        "POST /v1/flows/{flow_id}/members": [member | {"execution_id": one} for one in (FIRST, SECOND)],
        "POST /v1/flows/{flow_id}/edges": [edge | {"expected_graph_revision": 2}],
        "POST /v1/flows/{flow_id}/edges/apply": [edge | {"graph_revision": 3}],
        "POST /v1/flows/{flow_id}/cancel": [
            member | {"cancellation_policy": "cancel_all", "wait": wait} for wait in ("", "true")
        ],
        "POST /v1/budgets": [budget | {"hard_limits": [10], "soft_limits": [5]}],
        "GET /v1/budgets/{budget_id}": [budget],
        "POST /v1/budgets/{budget_id}/usage": [
            {"budget_id": BUDGET, "dimensions": {"tokens": 4}, "dedup_key": key} for key in ("once", None)
        ],
        "POST /v1/budgets/{budget_id}/reset": [budget],
        "POST /v1/quotas": [
            {"quota_policy_id": QUOTA, "window_seconds": 60, "max_requests_per_window": 1, "max_concurrent": 1}
        ],
        "POST /v1/admin/rotate-waitpoint-secret": [{"new_kid": "k2", "new_secret_hex": "ab" * 32}],
    }


def set_members(case: schemathesis.Case[Any], members: Members) -> None:
    """Set members wherever they belong; the server ignores what a body need not have."""
    body: Any = case.body
    for name, value in members.items():
        if name in case.path_parameters:
            case.path_parameters[name] = quote(str(value), safe="")
        if name in {parameter.name for parameter in case.operation.query}:
            case.query[name] = value
    if isinstance(body, dict):
        body |= members
    for place, name in ((case.query, "block_ms"), (body, "wait_ms")):
        if isinstance(place, dict) and isinstance(place.get(name), int):
            place[name] = min(place[name], SHORT_MS)


def answered(operation: Operation, members: Members, requests: int) -> set[tuple[int, str]]:
    """Send requests with these members and others by chance, compare the answers with the document; return them.

    Returns:
        Status and ``word`` of each answer.
    """
    seen = set[tuple[int, str]]()

    @settings(max_examples=requests, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(case=operation.as_strategy())
    def attempt(case: schemathesis.Case[Any]) -> None:
        set_members(case, members)
        response = case.call()
        case.validate_response(response, checks=CHECKS)
        is_json = response.headers.get("content-type", [""])[0].startswith("application/json")
        seen.add((response.status_code, word(response.json()) if is_json else ""))

    attempt()
    return seen


def word(answer: Any) -> str:
    """Return the word by which an answer is told from its alternatives: the answer, or the first of its members."""
    return answer if isinstance(answer, str) else next(iter(answer), "") if isinstance(answer, dict) else ""


def described(operation: Operation) -> set[tuple[int, str]]:
    """Return what the document describes for requests with known ids and unknown ones, like ``answered``.

    Answers without alternatives have an empty word.
    """
    document, found = operation.schema.raw_schema, set[tuple[int, str]]()
    components = document["components"]["schemas"]
    for status, answer in document["paths"][operation.path][operation.method]["responses"].items():
        if status.startswith("2") or status == "404":
            (content,) = answer.get("content", {"": {"schema": {}}}).values()
            for one in content["schema"].get("anyOf", [{"const": ""}]):
                inside = components[one["$ref"].rpartition("/")[2]] if "$ref" in one else one
                words = inside.get("properties") or inside.get("enum") or [inside["const"]]
                found |= {(int(status), name) for name in words}
    return found


def test_every_answer_is_as_the_openapi_document_says_and_each_success_in_it_occurs(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    examples = requests_that_succeed(workers, client, tmp_path)
    port = free_port()
    server = start_server(workers, port)
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    missing = dict[str, Any]()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), "an operation that cannot be called"
        operation = result.ok()
        wanted, known = described(operation), examples.pop(operation.label, [])
        seen = answered(operation, {}, requests=25)
        for members in known:
            seen |= answered(operation, members, requests=3)
        if "{" in operation.path:
            seen |= answered(operation, known[-1] | NOWHERE, requests=3)
        seen |= {(status, "") for status, _ in seen}
        if wanted - seen:
            missing[operation.label] = (wanted - seen, seen)
    assert not missing
    assert not examples
    assert server.process.poll() is None
