"""What a worker counts, as Prometheus reads it.

Nothing is counted for a scrape's sake: how the worker stands is copied at that moment, and the text is made of the
copy, which may take a while and so is for a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

import trio
from prometheus_client import Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

from ffsuper.sansio.ledger import BOUNDS_S, Ledger, What
from ffsuper.standing import VERSION, Standing, State, resident_bytes

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Sweeps have pulses only while this process leads.
A_SWEEP = "delayed"
# Counted from zero, so that the first one is seen as an increase; there may be others.
OUTCOMES = ("completed", "failed", "lost")
LOSSES = ("execution_not_active", "lease_expired", "lease_revoked", "local_deadline", "stale_lease")
DEATHS = ("exit", "handler", "memory", "SIGKILL", "SIGSEGV")
BOUNDS = (*map(str, BOUNDS_S), "+Inf")
PROCESS = ProcessCollector(registry=None)


@dataclass(frozen=True, slots=True)
class Seen:
    """How a worker stood at one moment.

    Attributes:
        stuck: so many names of actors that are stuck.
        silent_s: by name of actors, see ``Pulses.silent_s``.
        oldest_s: how long the execution has run for that has run longest.
        key_age_s: since the alive key was last ours for certain.
    """

    instance_id: str
    state: State
    slots: int
    stuck: int
    silent_s: Mapping[str, float]
    oldest_s: float
    key_age_s: float
    store_answers: bool
    ledger: Ledger

    def text(self) -> bytes:
        """Return it in Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield from self._worker()
        yield from self._attempts()
        yield from self._children()
        yield from PROCESS.collect()

    def _worker(self) -> Iterator[Metric]:
        who = {"instance_id": label(self.instance_id), "version": VERSION}
        yield InfoMetricFamily("ffsuper_worker", "Which worker this is.", who)
        states = {state.value: float(state is self.state) for state in State}
        yield gauges("ffsuper_worker_state", "1 for the state that the worker is in.", "state", states)
        yield gauge("ffsuper_slots", "Executions that can run at once.", self.slots)
        told = "For how long actors of this name have been doing one thing, at most; 0 while they wait for others."
        yield gauges("ffsuper_actor_silence_seconds", told, "actor", self.silent_s)
        yield gauge("ffsuper_stuck_actors", "Actors that are stuck; those of one name count once.", self.stuck)
        told = "1 if the store answered when it was last asked, by the renewal of the alive key or by /readyz."
        yield gauge("ffsuper_store_reachable", told, self.store_answers)
        yield gauge("ffsuper_alive_key_age_seconds", "Time since the alive key was last renewed.", self.key_age_s)
        yield gauge("ffsuper_engine_leader", "1 while the engine of this process leads.", A_SWEEP in self.silent_s)

    def _attempts(self) -> Iterator[Metric]:
        ledger = self.ledger
        yield gauge("ffsuper_running_attempts", "Attempts that run.", len(ledger.running))
        yield gauge("ffsuper_oldest_attempt_seconds", "Age of the oldest attempt that runs.", self.oldest_s)
        begun = CounterMetricFamily("ffsuper_attempts_begun", "Attempts begun.", labels=("lane", "kind"))
        for what, count in ledger.begun.items():
            begun.add_metric(of(what), count)
        yield begun
        told = "Attempts that came to an outcome; it is lost when their lease ended first."
        finished = CounterMetricFamily("ffsuper_attempts_finished", told, labels=("lane", "kind", "outcome"))
        known = dict.fromkeys(product(ledger.begun, OUTCOMES), 0)
        for (what, outcome), count in (known | ledger.finished).items():
            finished.add_metric((*of(what), outcome), count)
        yield finished
        seconds = HistogramMetricFamily("ffsuper_attempt_seconds", "How long attempts ran.", labels=("lane", "kind"))
        for what, durations in ledger.durations.items():
            seconds.add_metric(
                of(what), list(zip(BOUNDS, accumulate(durations.counts), strict=True)), durations.sum_s
            )
        yield seconds
        yield counters("ffsuper_leases_lost", "Leases that ended before their attempt.", "code", LOSSES, ledger.lost)

    def _children(self) -> Iterator[Metric]:
        sizes = [resident_bytes(pid) for pid in self.ledger.children]
        yield gauge("ffsuper_children", "Child processes.", len(sizes))
        told = "Resident memory of all children, without their own descendants; pages that they share count often."
        yield gauge("ffsuper_children_resident_bytes", told, sum(sizes))
        yield gauge("ffsuper_largest_child_resident_bytes", "Likewise, of the largest.", max(sizes, default=0))
        told = "Children that died unasked."
        yield counters("ffsuper_child_deaths", told, "cause", DEATHS, self.ledger.deaths)


def look(standing: Standing, instance_id: str) -> Seen:
    """See how a worker stands, quickly."""
    now_s = trio.current_time()
    return Seen(
        instance_id,
        standing.state,
        standing.offer.slots,
        len(standing.stuck()),
        standing.pulses.silent_s(),
        max((now_s - one.since_s for one in standing.ledger.running.values()), default=0.0),
        now_s - standing.key_held_s,
        standing.store_answers,
        standing.ledger.copy(),
    )


def gauge(name: str, told: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, told, value=value)


def gauges(name: str, told: str, name_of_label: str, values: Mapping[str, float]) -> Metric:
    """Return a gauge with one label."""
    family = GaugeMetricFamily(name, told, labels=(name_of_label,))
    for one, value in values.items():
        family.add_metric((label(one),), value)
    return family


def counters(name: str, told: str, name_of_label: str, known: Sequence[str], counts: dict[str, int]) -> Metric:
    """Return a counter with one label.

    Args:
        known: values of the label that are there in any case.
    """
    family = CounterMetricFamily(name, told, labels=(name_of_label,))
    for one, count in (dict.fromkeys(known, 0) | counts).items():
        family.add_metric((label(one),), count)
    return family


def of(what: What) -> tuple[str, str]:
    """Return the values of the labels ``lane`` and ``kind``."""
    return label(what.lane), label(what.kind)


def label(text: str) -> str:
    """Return a text that can stand in UTF-8, whatever a submitter has put into the store."""
    return text.encode(errors="backslashreplace").decode()
