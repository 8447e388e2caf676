"""Spans of a real worker, as a collector gets them over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, Tracer

from ffsuper import AdminClient
from ffsuper.cli import Exit
from ffsuper.client import Client
from ffsuper.messages import ExecutionId
from ffsuper.store.submissions import Submission, valid_lane
from tests.system.test_server import free_port, start_server
from tests.system.workers import LIMIT_S, Workers, eventually

RETRIED = {"retry_policy": {"max_retries": 1, "backoff": {"type": "fixed", "delay_ms": 1}}}
# What the last spans may take at most, and then some.
EXIT_S = 10.0
WITHOUT_OTEL = """
import sys
sys.modules["opentelemetry"] = None
from ffsuper.cli import main
sys.exit(main())
"""


class Collector(ThreadingHTTPServer):
    """Takes spans over OTLP.

    Attributes:
        services: the names of the services that they are from.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(named["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def wait_for(self, execution: ExecutionId, count: int = 1) -> list[Span]:
        """Wait for the spans of an execution's attempts; return them, the earlier attempts first."""

        def found() -> list[Span] | None:
            spans = [one for one in self.spans if attributes(one)["ffsuper.execution"] == execution]
            return spans if len(spans) >= count else None

        return sorted(eventually(found, f"{count} spans of {execution}"), key=lambda one: one.start_time_unix_nano)


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.take(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    """Provide what a submitter makes its own spans with."""
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider.get_tracer("submitter")
    provider.shutdown()


def trace_to(workers: Workers, url: str, delay_ms: int = 20) -> None:
    """Let the workers that are started from now on export to a collector, after a delay."""
    workers.environment |= {
        "FFSUPER_TRACING_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": str(delay_ms),
    }


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in span.attributes}


def traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_an_attempt_is_a_span_that_is_linked_to_the_one_in_which_it_was_submitted(
    workers: Workers, client: Client, collector: Collector, tracer: Tracer
) -> None:
    trace_to(workers, collector.url)
    worker = workers.start()
    with tracer.start_as_current_span("order") as order:
        execution = client.submit("tells-its-trace")
    (span,) = collector.wait_for(execution)
    (link,) = span.links
    submitter = order.get_span_context()
    assert (int.from_bytes(link.trace_id), int.from_bytes(link.span_id)) == (submitter.trace_id, submitter.span_id)
    assert (span.name, span.kind) == ("execution tells-its-trace", Span.SpanKind.SPAN_KIND_CONSUMER)
    assert span.parent_span_id == b""
    told = attributes(span)
    assert told["ffsuper.outcome"] == "completed"
    assert (told["ffsuper.worker"], told["ffsuper.lane"], told["ffsuper.attempt"]) == ("worker-1", "default", 0)
    assert told["ffsuper.child"] in {child.pid for child in worker.children()}
    assert collector.services == {"ffsuper"}
    handlers = json.loads(client.result(execution) or b"").split("-")
    assert handlers[1:3] == [span.trace_id.hex(), span.span_id.hex()]


def test_a_failed_attempt_and_its_retry_are_two_spans(workers: Workers, client: Client, collector: Collector) -> None:
    trace_to(workers, collector.url)
    workers.start()
    failed, retried = collector.wait_for(client.submit("fail-once", policy=RETRIED), count=2)
    assert failed.status.code == Status.StatusCode.STATUS_CODE_ERROR
    assert (failed.status.message, attributes(failed)["error.type"]) == ("ValueError: the first time", "exception")
    assert [attributes(one)["ffsuper.attempt_type"] for one in (failed, retried)] == ["initial", "retry"]
    assert [link.span_id for link in retried.links] == [failed.span_id]
    assert retried.status.code == Status.StatusCode.STATUS_CODE_UNSET


def test_a_cancelled_execution_has_lost_its_lease_and_is_no_error(
    workers: Workers, client: Client, collector: Collector
) -> None:
    trace_to(workers, collector.url)
    worker = workers.start()
    execution = client.submit("until-cancelled", str(workers.folder))
    worker.wait_for("claimed", execution=execution)
    eventually((workers.folder / "history").exists, "the handler")
    client.cancel(execution)
    (span,) = collector.wait_for(execution)
    assert [event.name for event in span.events] == ["lease ended"]
    assert (attributes(span)["ffsuper.outcome"], span.status.code) == ("lost", Status.StatusCode.STATUS_CODE_UNSET)


def test_the_last_spans_are_exported_when_the_worker_ends(
    workers: Workers, client: Client, collector: Collector
) -> None:
    trace_to(workers, collector.url, delay_ms=3_600_000)
    worker = workers.start()
    execution = client.submit("echo", b"x")
    assert client.wait(execution, LIMIT_S).state == "completed"
    worker.wait_for("finished", execution=execution)
    worker.process.terminate()
    assert worker.wait() == Exit.OK
    assert len(collector.wait_for(execution)) == 1


@contextmanager
def nobody() -> Iterator[int]:
    """Provide a port that refuses."""
    yield free_port()


@contextmanager
def mute() -> Iterator[int]:
    """Provide a port where somebody takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize("away", [nobody, mute])
def test_a_collector_that_is_away_costs_no_execution_and_no_long_end(
    workers: Workers, client: Client, away: Any
) -> None:
    with away() as port:
        trace_to(workers, f"http://127.0.0.1:{port}")
        worker = workers.start()
        for execution in [client.submit("echo", b"x") for _ in range(50)]:
            assert client.wait(execution, LIMIT_S).state == "completed"
        began_s = time.monotonic()
        worker.process.terminate()
        assert worker.wait() == Exit.OK
        assert time.monotonic() - began_s < EXIT_S
    worker_log = worker.log_path.read_text()
    assert "Traceback" not in worker_log
    assert {one["event"] for one in worker.events() if one["level"] == "warning"} >= {"spans not exported"}
    assert [one for one in worker.events() if one["level"] in ("error", "critical")] == []


def test_a_worker_without_the_extra_says_what_to_install(workers: Workers) -> None:
    trace_to(workers, "http://127.0.0.1:1")
    workers.program = ("-c", WITHOUT_OTEL)
    worker = workers.launch()
    assert worker.wait() == Exit.CONFIG
    told = '[tracing] enabled: needs opentelemetry: pip install "ffsuper[otel]"'
    (ended,) = [one for one in worker.events() if one["event"] == "ended"]
    assert ended["error"] == told
    checked = subprocess.run(
        [sys.executable, *workers.program, "check", "--config", str(workers.folder / "worker-1.toml")],
        capture_output=True,
        text=True,
        env=os.environ | workers.environment,
        check=False,
    )
    assert checked.returncode == Exit.CONFIG
    assert told in checked.stdout + checked.stderr


def test_the_handler_of_a_worker_that_does_not_trace_is_given_the_submitters_context(
    workers: Workers, client: Client, tracer: Tracer
) -> None:
    workers.start()
    with tracer.start_as_current_span("order") as order:
        execution = client.submit("tells-its-trace")
    assert client.wait(execution, LIMIT_S).state == "completed"
    assert json.loads(client.result(execution) or b"") == traceparent(order.get_span_context())


def test_every_way_of_submitting_carries_the_context(workers: Workers, client: Client, tracer: Tracer) -> None:
    port = free_port()
    start_server(workers, port)
    lane = valid_lane("nobody")
    with AdminClient(f"http://127.0.0.1:{port}") as admin, tracer.start_as_current_span("order") as order:
        submitted = [
            client.submit("echo", lane=lane),
            *client.submit_many([Submission(execution_id=client.new_id(lane), lane=lane, execution_kind="echo")]),
            client.create_flow().add("echo", lane=lane),
            admin.submit("echo", lane=lane),
        ]
    context = traceparent(order.get_span_context())
    assert [client.show(one).tags for one in submitted] == [{"traceparent": context}] * 4
