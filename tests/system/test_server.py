"""``ffsuper server`` as a process, with a worker that gets its work from it."""

from __future__ import annotations

import signal
import socket
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import schemathesis
from hypothesis import Phase, given, settings
from schemathesis.core.result import Ok

from ffsuper.client import Client
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


def test_no_request_that_the_openapi_document_allows_or_forbids_breaks_the_server(workers: Workers) -> None:
    port = free_port()
    server = start_server(workers, port)
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
    tried = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), "an operation that cannot be called"

        @settings(max_examples=25, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
        @given(case=result.ok().as_strategy())
        def attempt(case: schemathesis.Case[Any]) -> None:
            nonlocal tried
            tried += 1
            response = case.call()
            assert response.status_code < 500, f"{response.request.method} {response.request.url}: {response.text}"

        attempt()
    assert tried > 100
    assert server.process.poll() is None
