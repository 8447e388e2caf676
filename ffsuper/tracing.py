"""The attempts of a worker as OpenTelemetry spans. Imported only where ``[tracing]`` is enabled.

An attempt's span is the root of a trace of its own, linked to the span in which the execution was submitted: that has
often ended long ago, and whether it was sampled says nothing about the attempt. It is kept by a ledger, which is told
of all that it needs anyway. OpenTelemetry's thread exports; when the collector is away, spans are dropped.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

import trio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ffsuper.errors import ConfigError
from ffsuper.messages import Claim, ExecutionId, LeaseId
from ffsuper.sansio.ledger import NOTHING, Ledger

LOG = logging.getLogger(__name__)
THEIRS = logging.getLogger("opentelemetry")
# Its complaints cite what a variable holds, which may be a token.
CITES_HEADERS = "opentelemetry.util.re"

W3C = TraceContextTextMapPropagator()
# What the last spans may take at the worker's end.
FLUSH_S = 2.0
# The same complaint is not told more often than this.
REPEAT_S = 600.0
# Executions whose last attempt was here and did not complete; the next one is linked to it if it is here too.
REMEMBERED = 10_000
# Outcomes that are errors; when a lease was lost, how it was lost says so.
ERRORS = ("failed", "undeliverable", "refused")


@asynccontextmanager
async def open_ledger(instance_id: str) -> AsyncIterator[Ledger]:
    """Keep a ledger whose spans are exported as the variables OTEL_... say.

    Raises:
        ConfigError: one of these is wrong.
    """
    if not any(isinstance(one, Rarely) for one in THEIRS.handlers):
        THEIRS.addHandler(Rarely())
        THEIRS.propagate = False
    try:
        provider = TracerProvider(resource=resource_of(instance_id), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, RuntimeError) as error:
        raise ConfigError([f"[tracing] enabled: a variable OTEL_... of the environment is wrong: {error}"]) from None
    try:
        yield TracedLedger(provider.get_tracer("ffsuper", version("ffsuper")), instance_id)
    finally:
        with trio.move_on_after(FLUSH_S, shield=True) as flushing:
            await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)
        if flushing.cancelled_caught:
            LOG.warning(
                "spans not exported", extra={"error": f"the collector did not take them within {FLUSH_S:g} s"}
            )


def resource_of(instance_id: str) -> Resource:
    """Return what the spans are of; the environment may say otherwise."""
    ours = {"service.name": "ffsuper", "service.instance.id": instance_id, "service.version": version("ffsuper")}
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


class TracedLedger(Ledger):
    """A ledger that keeps a span for each attempt that runs."""

    def __init__(self, tracer: Tracer, instance_id: str) -> None:
        super().__init__()
        self._tracer = tracer
        self._instance_id = instance_id
        self._spans: dict[LeaseId, Span] = {}
        self._earlier: OrderedDict[ExecutionId, SpanContext] = OrderedDict()

    def began(self, claim: Claim, child: int, now_s: float) -> None:
        """Begin a span, or note that the handler is called again under the same lease."""
        super().began(claim, child, now_s)
        span = self._spans.get(claim.lease.lease_id)
        if span is None:
            self._spans[claim.lease.lease_id] = self._start(claim, child)
        else:
            span.set_attribute("ffsuper.child", child)
            span.add_event("resumed", {"ffsuper.signals": [clean(signal.name) for signal in claim.signals]})

    def _start(self, claim: Claim, child: int) -> Span:
        lease, kind = claim.lease, clean(claim.execution_kind)
        sources = {
            "submitter": context_of(claim.tags),
            "earlier_attempt": self._earlier.pop(lease.execution_id, None),
        }
        return self._tracer.start_span(
            f"execution {kind}",
            Context(),
            SpanKind.CONSUMER,
            {
                "messaging.system": "ffsuper",
                "messaging.operation.name": "execute",
                "messaging.operation.type": "process",
                "messaging.destination.name": lease.lane,
                "messaging.message.id": lease.execution_id,
                "ffsuper.execution": lease.execution_id,
                "ffsuper.kind": kind,
                "ffsuper.lane": lease.lane,
                "ffsuper.attempt": lease.attempt_index,
                "ffsuper.attempt_type": claim.attempt_type,
                "ffsuper.worker": self._instance_id,
                "ffsuper.child": child,
            },
            [Link(context, {"ffsuper.link": what}) for what, context in sources.items() if context is not None],
        )

    def traceparent(self, lease_id: LeaseId) -> str:
        """Return the context of an attempt's span."""
        carrier: dict[str, str] = {}
        W3C.inject(carrier, trace.set_span_in_context(self._spans[lease_id], Context()))
        return carrier.get("traceparent", "")

    def lease_ended(self, lease_id: LeaseId, code: str, *, by_order: bool) -> None:
        """Note in the span that it has lost its lease, which is an error unless somebody wanted it."""
        super().lease_ended(lease_id, code, by_order=by_order)
        if span := self._spans.get(lease_id):
            span.add_event("lease ended", {"ffsuper.code": code})
            if not by_order:
                fail(span, code, "the lease was lost")

    def ended(self, lease_id: LeaseId, outcome: str, now_s: float, why: Mapping[str, object] = NOTHING) -> None:
        """End the span."""
        running = self.running.get(lease_id)
        super().ended(lease_id, outcome, now_s, why)
        span = self._spans.pop(lease_id, None)
        if running is None or span is None:
            return
        span.set_attribute("ffsuper.outcome", outcome)
        if outcome == "suspended":
            span.add_event("suspended")
        if outcome in ERRORS:
            fail(span, str(why.get("category", outcome)), str(why.get("reason", "")))
        span.end()
        if outcome != "completed":
            self._earlier[running.claim.lease.execution_id] = span.get_span_context()
            if len(self._earlier) > REMEMBERED:
                self._earlier.popitem(last=False)


def fail(span: Span, kind: str, reason: str) -> None:
    """Mark a span as failed."""
    span.set_attribute("error.type", clean(kind))
    span.set_status(Status(StatusCode.ERROR, clean(reason)))


def context_of(tags: Mapping[str, str]) -> SpanContext | None:
    """Return the trace context that tags carry; None when they carry none that makes sense."""
    context = trace.get_current_span(W3C.extract(tags, Context())).get_span_context()
    return context if context.is_valid else None


def clean(text: str) -> str:
    """Return a text that can be sent: of what cannot be encoded, a whole batch would be lost."""
    return text.encode(errors="replace").decode()


class Rarely(logging.Handler):
    """Turns what OpenTelemetry complains about into warnings of ours: one line, the same one not soon again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told_s: dict[tuple[str, int], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, unless that was told a short while ago."""
        place, now_s = (record.pathname, record.lineno), time.monotonic()
        if now_s < self._told_s.get(place, -REPEAT_S) + REPEAT_S:
            return
        self._told_s[place] = now_s
        told = str(record.msg).replace("%s", "...") if record.name == CITES_HEADERS else record.getMessage()
        error = f"{told} {record.exc_info[1]}" if record.exc_info else told
        LOG.warning("tracing impaired", extra={"error": error})
