"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ffsuper.metrics import PROCESS

# A grant takes a few milliseconds, a long poll up to half a minute.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)


class Metrics:
    """The numbers of one server.

    Attributes:
        requests: by method, route and status; the route as it is written in the OpenAPI document, so that there are
            only so many.
        seconds: how long answers took, by route.
        grants: executions that workers were granted.
        waiting: claims that wait for work to come.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        registry.register(PROCESS)
        self.requests = Counter(
            "ffsuper_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "ffsuper_http_request_seconds",
            "Time to the end of the answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.grants = Counter("ffsuper_grants", "Executions granted to workers.", registry=registry)
        self.waiting = Gauge("ffsuper_waiting_claims", "Claims that wait for work.", registry=registry)
        self.registry = registry

    def text(self) -> bytes:
        """Return all of them."""
        return generate_latest(self.registry)
