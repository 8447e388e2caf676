"""A small FlowFabric server for the tests, written from the protocol: it grants claims, and does nothing else."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import redis

from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.keys import ExecutionKeys, PartitionKeys


class FakeServer(ThreadingHTTPServer):
    """Grants from a real store.

    Attributes:
        grants: executions granted so far.
        asked: claim requests so far, by lane.
    """

    daemon_threads = False  # closing waits for them
    allow_reuse_address = True

    def __init__(self, store_url: str, token: str, port: int = 0) -> None:
        self.store = redis.Redis.from_url(store_url)
        self.token = token
        self.grants: list[str] = []
        self.asked: list[str] = []
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Worry about all but a worker that did not wait for the answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def grant(self, worker_id: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """Grant the first execution that can be granted.

        Source: protocol, 12 section 1.2, without budgets and quotas.
        """
        lane = LaneId(request["lane_id"])
        capabilities = ",".join(sorted(request["capabilities"]))
        for index in range(int(self.store.hget("ff:config:partitions", "num_flow_partitions") or 256)):
            eligible = PartitionKeys.of_index(index).lane(lane, "eligible")
            members: Any = self.store.zrangebyscore(eligible, "-inf", "+inf", 0, 1)
            for member in members:
                execution = ExecutionId(member.decode())
                keys = ExecutionKeys.of(execution)
                grant_key = keys.part("claim_grant")
                reply = self.store.fcall(
                    "ff_issue_claim_grant",
                    *(3, keys.core, grant_key, eligible),
                    *(execution, worker_id, request["worker_instance_id"], lane, "", request["grant_ttl_ms"]),
                    *("", "", capabilities),
                )
                if reply[0] == 1:
                    self.grants.append(execution)
                    return {
                        "execution_id": execution,
                        "partition_family": "execution",
                        "partition_index": index,
                        "grant_key": grant_key,
                        "expires_at_ms": self.store.time()[0] * 1000 + request["grant_ttl_ms"],
                    }
        return None


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open between requests."""

    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            self.answer(401, {"error": "missing or invalid Authorization header"})
            return
        _, version, what, worker_id, claim = self.path.split("/")
        assert (version, what, claim) == ("v1", "workers", "claim")
        self.server.asked.append(request["lane_id"])
        grant = self.server.grant(unquote(worker_id), request)
        self.answer(204 if grant is None else 200, grant)

    def answer(self, status: int, content: dict[str, Any] | None) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        pass


@contextmanager
def running_fake_server(store_url: str, token: str, port: int = 0) -> Iterator[FakeServer]:
    """Run a server; leaving breaks all its connections."""
    with FakeServer(store_url, token, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            for connection in server.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster
            server.server_close()
            server.store.close()
