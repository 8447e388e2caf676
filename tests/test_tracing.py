"""Spans of attempts, as an exporter gets them; what submitters leave in the tags; and what costs nothing when off."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from ffsuper import Context, handler
from ffsuper.config import Config, TracingConfig
from ffsuper.errors import ConfigError
from ffsuper.messages import AttemptId, Claim, ExecutionId, Failed, LaneId, Lease, LeaseId, ReceivedSignal
from ffsuper.sansio.ledger import Ledger
from ffsuper.store.delivery import why
from ffsuper.store.submissions import traced_tags
from ffsuper.supervisor import ledger_of, with_fixed
from ffsuper.testing import run_handler
from ffsuper.tracing import REMEMBERED, Rarely, TracedLedger, open_ledger, resource_of

SUBMITTER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LEASE = Lease(
    ExecutionId("{fp:1}:x"),
    LaneId("bulk"),
    LeaseId("lease-1"),
    epoch=1,
    attempt_id=AttemptId("attempt"),
    attempt_index=0,
    ttl_ms=1000,
    asked_at_s=0.0,
)
CLAIM = Claim(LEASE, "job", "initial", b"hush", {"traceparent": SUBMITTER}, b"")
RETRY = replace(CLAIM, lease=replace(LEASE, lease_id=LeaseId("lease-2"), attempt_index=1), attempt_type="retry")


class Traced:
    """A ledger, and the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.ledger = TracedLedger(self.provider.get_tracer("test"), "worker-1")

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def run(
        self, claim: Claim = CLAIM, outcome: str = "completed", why: Mapping[str, object] | None = None
    ) -> ReadableSpan:
        """Let an attempt begin and end; return its span."""
        self.ledger.began(claim, 77, 1.0)
        self.ledger.ended(claim.lease.lease_id, outcome, 2.0, why or {})
        return self.spans()[-1]


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


def links(span: ReadableSpan) -> list[tuple[object, int]]:
    return [((link.attributes or {})["ffsuper.link"], link.context.span_id) for link in span.links]


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    assert span.attributes is not None
    return span.attributes


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def test_an_attempt_is_a_trace_of_its_own_that_is_linked_to_the_submitters(traced: Traced) -> None:
    span = traced.run()
    assert (span.name, span.kind.name, span.parent) == ("execution job", "CONSUMER", None)
    assert [format(link.context.trace_id, "032x") for link in span.links] == [SUBMITTER.split("-")[1]]
    assert span.context is not None
    assert span.context.trace_id != span.links[0].context.trace_id
    assert {key: value for key, value in attributes(span).items() if key.startswith("ffsuper.")} == {
        "ffsuper.execution": "{fp:1}:x",
        "ffsuper.kind": "job",
        "ffsuper.lane": "bulk",
        "ffsuper.attempt": 0,
        "ffsuper.attempt_type": "initial",
        "ffsuper.worker": "worker-1",
        "ffsuper.child": 77,
        "ffsuper.outcome": "completed",
    }
    assert span.status.status_code is StatusCode.UNSET


def test_an_attempt_of_an_untraced_submitter_has_no_link(traced: Traced) -> None:
    for tags in ({}, {"traceparent": "nonsense"}, {"traceparent": SUBMITTER.replace("b7ad6b7169203331", "0" * 16)}):
        assert not traced.run(replace(CLAIM, tags=tags)).links


def test_the_tracestate_of_the_submitter_is_kept(traced: Traced) -> None:
    (link,) = traced.run(replace(CLAIM, tags={"traceparent": SUBMITTER, "tracestate": "vendor=7"})).links
    assert link.context.trace_state.to_header() == "vendor=7"


def test_the_handler_is_given_the_context_of_its_attempts_span(traced: Traced) -> None:
    traced.ledger.began(CLAIM, 77, 1.0)
    told = traced.ledger.traceparent(LEASE.lease_id)
    traced.ledger.ended(LEASE.lease_id, "completed", 2.0)
    (span,) = traced.spans()
    assert span.context is not None
    assert told.split("-")[1:3] == [format(span.context.trace_id, "032x"), format(span.context.span_id, "016x")]


def test_a_failure_is_an_error_with_its_category_and_the_first_line_of_its_reason(traced: Traced) -> None:
    span = traced.run(outcome="failed", why=why(Failed("ValueError: no\nTraceback", "exception")))
    assert (attributes(span)["error.type"], attributes(span)["ffsuper.outcome"]) == ("exception", "failed")
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError: no")


def test_no_span_tells_of_a_payload(traced: Traced) -> None:
    span = traced.run(outcome="failed", why=why(Failed("expected int, got hush", "payload")))
    assert attributes(span)["error.type"] == "payload"
    assert "hush" not in span.to_json()


def test_a_reason_that_no_encoding_has_can_be_exported(traced: Traced) -> None:
    span = traced.run(outcome="failed", why={"category": "\ud800", "reason": "a \udfff b"})
    assert b"a ? b" in encode_spans([span]).SerializeToString()


def test_the_next_attempt_here_is_linked_to_the_one_before(traced: Traced) -> None:
    first, second = traced.run(outcome="failed"), traced.run(RETRY)
    assert dict(links(second))["earlier_attempt"] == span_id(first)
    assert "earlier_attempt" not in dict(
        links(traced.run(replace(RETRY, lease=replace(LEASE, lease_id=LeaseId("3")))))
    )


def test_attempts_that_never_get_a_successor_here_are_not_remembered_for_ever(traced: Traced) -> None:
    traced.run(outcome="suspended")
    for number in range(REMEMBERED):
        traced.run(replace(CLAIM, lease=replace(LEASE, execution_id=ExecutionId(str(number)))), "suspended")
    assert dict(links(traced.run(RETRY))).keys() == {"submitter"}


def test_a_suspension_is_an_event_and_no_error(traced: Traced) -> None:
    span = traced.run(outcome="suspended")
    assert [event.name for event in span.events] == ["suspended"]
    assert span.status.status_code is StatusCode.UNSET


def test_an_attempt_whose_signals_had_come_already_goes_on_in_its_span(traced: Traced) -> None:
    signal = ReceivedSignal("id", "go", "external", "client", "", "", 0, b"hush")
    traced.ledger.began(CLAIM, 77, 1.0)
    traced.ledger.began(replace(CLAIM, attempt_type="resumed", signals=(signal,)), 78, 2.0)
    traced.ledger.ended(LEASE.lease_id, "completed", 3.0)
    (span,) = traced.spans()
    (event,) = span.events
    assert (event.name, event.attributes) == ("resumed", {"ffsuper.signals": ("go",)})
    assert attributes(span)["ffsuper.child"] == 78


@pytest.mark.parametrize(("by_order", "status"), [(False, StatusCode.ERROR), (True, StatusCode.UNSET)])
def test_a_lost_lease_is_an_event_and_an_error_unless_somebody_wanted_it(
    traced: Traced, by_order: bool, status: StatusCode
) -> None:
    traced.ledger.began(CLAIM, 77, 1.0)
    traced.ledger.lease_ended(LEASE.lease_id, "stale_lease", by_order=by_order)
    traced.ledger.ended(LEASE.lease_id, "lost", 2.0)
    (span,) = traced.spans()
    assert [(event.name, event.attributes) for event in span.events] == [
        ("lease ended", {"ffsuper.code": "stale_lease"})
    ]
    assert span.status.status_code is status
    assert traced.ledger.lost == {"stale_lease": 1}


def test_the_end_of_what_had_not_begun_is_no_span(traced: Traced) -> None:
    traced.ledger.ended(LEASE.lease_id, "deferred", 2.0)
    assert traced.spans() == []


def test_the_counts_of_a_traced_ledger_are_those_of_any(traced: Traced) -> None:
    traced.run()
    plain = Ledger()
    plain.began(CLAIM, 77, 1.0)
    plain.ended(LEASE.lease_id, "completed", 2.0)
    assert (traced.ledger.begun, traced.ledger.finished, traced.ledger.running) == (plain.begun, plain.finished, {})


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resource_of("worker-1").attributes["service.name"] == "ffsuper"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "images")
    named = resource_of("worker-1").attributes
    assert (named["service.name"], named["service.instance.id"]) == ("images", "worker-1")


async def test_a_wrong_variable_is_told_of_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "3")
    with pytest.raises(ConfigError, match=r"a variable OTEL_.* is wrong: .*max_queue_size"):
        async with open_ledger("worker-1"):
            raise AssertionError


class Complaint:
    """A logger as OpenTelemetry's."""

    def __init__(self, name: str = "opentelemetry.test") -> None:
        self.logger = logging.Logger(name)
        self.logger.addHandler(Rarely())

    def error(self, cause: str) -> None:
        try:
            raise OSError(cause)
        except OSError:
            self.logger.exception("cannot export")


def test_complaints_are_warnings_without_traceback_and_not_repeated_soon(caplog: pytest.LogCaptureFixture) -> None:
    complaint = Complaint()
    for _ in range(3):
        complaint.error("refused")
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert record.__dict__["error"] == "cannot export refused"


def test_complaints_about_headers_do_not_cite_them(caplog: pytest.LogCaptureFixture) -> None:
    Complaint("opentelemetry.util.re").logger.warning("Header format invalid: %s", "Bearer hush")
    (record,) = caplog.records
    assert record.__dict__["error"] == "Header format invalid: ..."


# --- the submitter ----------------------------------------------------------------------------------------------


def test_what_is_submitted_in_a_span_carries_its_context(traced: Traced) -> None:
    with traced.provider.get_tracer("test").start_as_current_span("order") as span:
        context = span.get_span_context()
        tags = traced_tags({"color": "blue"})
    assert tags.pop("color") == "blue"
    assert tags == {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}


def test_a_context_that_the_submitter_gives_himself_stays(traced: Traced) -> None:
    with traced.provider.get_tracer("test").start_as_current_span("order"):
        assert traced_tags({"traceparent": SUBMITTER}) == {"traceparent": SUBMITTER}


def test_what_is_submitted_outside_of_any_span_carries_none() -> None:
    assert traced_tags({"color": "blue"}) == {"color": "blue"}


@handler("tells-its-trace")
def tells_its_trace(ctx: Context) -> str:
    return ctx.traceparent


def test_the_handler_of_an_untraced_worker_is_given_the_submitters_context() -> None:
    assert run_handler(tells_its_trace, tags={"traceparent": SUBMITTER}).result == SUBMITTER
    assert run_handler(tells_its_trace).result == ""


# --- off --------------------------------------------------------------------------------------------------------


OFF = """
import sys
if not {installed}:
    sys.modules["opentelemetry"] = None
import ffsuper.client, ffsuper.supervisor
from ffsuper.config import Config
from ffsuper.store.submissions import traced_tags
ffsuper.supervisor.ledger_of(Config())
assert traced_tags({{"color": "blue"}}) == {{"color": "blue"}}
print([name for name in sys.modules if name.startswith(("opentelemetry.exporter", "ffsuper.tracing", "google"))])
"""


@pytest.mark.parametrize("installed", [True, False])
def test_a_worker_that_does_not_trace_and_its_clients_import_nothing_for_it(installed: bool) -> None:
    program = OFF.format(installed=installed)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


async def test_a_worker_that_does_not_trace_keeps_a_plain_ledger() -> None:
    async with ledger_of(Config()) as ledger:
        assert type(ledger) is Ledger
        ledger.began(CLAIM, 77, 1.0)
        assert ledger.traceparent(LEASE.lease_id) == ""


def test_a_reload_leaves_tracing_as_it_is() -> None:
    before = Config()
    config, left = with_fixed(replace(before, tracing=TracingConfig(enabled=True)), before)
    assert (config, left) == (before, ["[tracing]"])
