"""What runs and has run is counted by lane, kind and outcome, and the counts do not grow without end."""

from __future__ import annotations

from ffsuper.messages import AttemptId, Claim, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.sansio.ledger import APART, BOUNDS_S, OTHER, Ledger, Running, What

JOB = What(LaneId("default"), "job")


def claim(number: int = 1, kind: str = "job") -> Claim:
    lease = Lease(
        ExecutionId(f"execution-{number}"),
        LaneId("default"),
        LeaseId(f"lease-{number}"),
        epoch=1,
        attempt_id=AttemptId("attempt"),
        attempt_index=0,
        ttl_ms=1000,
        asked_at_s=0.0,
    )
    return Claim(lease, kind, "initial", b"", {}, b"")


def test_an_attempt_is_counted_when_it_begins_and_when_it_ends() -> None:
    ledger, one = Ledger(), claim()
    ledger.began(one, 77, 10.0)
    assert (ledger.running, ledger.begun) == ({one.lease.lease_id: Running(one, 77, 10.0)}, {JOB: 1})
    ledger.ended(one.lease.lease_id, "completed", 10.2)
    assert (ledger.running, ledger.finished) == ({}, {(JOB, "completed"): 1})


def test_one_that_goes_on_in_another_child_is_counted_once_and_keeps_its_beginning() -> None:
    ledger, one = Ledger(), claim()
    ledger.began(one, 77, 10.0)
    ledger.began(one, 78, 20.0)
    assert (ledger.running[one.lease.lease_id], ledger.begun.total()) == (Running(one, 78, 10.0), 1)


def test_the_end_of_what_had_not_begun_counts_nothing() -> None:
    ledger = Ledger()
    ledger.ended(LeaseId("lease-1"), "deferred", 1.0)
    assert (ledger.finished, ledger.durations) == ({}, {})


def test_durations_go_into_the_bucket_that_they_fit_in() -> None:
    ledger = Ledger()
    for number, seconds in enumerate((0.0, BOUNDS_S[0], 0.2, BOUNDS_S[-1] + 1)):
        ledger.began(claim(number), 77, 0.0)
        ledger.ended(LeaseId(f"lease-{number}"), "completed", seconds)
    counts = ledger.durations[JOB].counts
    assert (counts[0], counts[BOUNDS_S.index(0.25)], counts[-1], sum(counts)) == (2, 1, 1, 4)
    assert ledger.durations[JOB].sum_s == BOUNDS_S[0] + 0.2 + BOUNDS_S[-1] + 1


def test_leases_that_end_before_their_attempt_are_counted_by_why() -> None:
    ledger = Ledger()
    for number, code in enumerate(("lease_expired", "execution_not_active", "lease_expired")):
        ledger.lease_ended(LeaseId(f"lease-{number}"), code, by_order=code == "execution_not_active")
    assert ledger.lost == {"lease_expired": 2, "execution_not_active": 1}


def test_without_tracing_an_attempt_has_no_trace_context() -> None:
    assert Ledger().traceparent(LeaseId("lease-1")) == ""


def test_a_copy_stays_as_it_was() -> None:
    ledger = Ledger()
    for number in (1, 2):
        ledger.began(claim(number), 77, 0.0)
    ledger.ended(LeaseId("lease-1"), "completed", 1.0)
    ledger.lost["lease_expired"] = ledger.deaths["exit"] = 1
    ledger.children.add(77)
    copy = ledger.copy()
    ledger.ended(LeaseId("lease-2"), "completed", 1.0)
    ledger.began(claim(3), 77, 0.0)
    ledger.lost["lease_expired"] = ledger.deaths["exit"] = 2
    ledger.children.clear()
    assert (list(copy.running), copy.begun[JOB], copy.finished[JOB, "completed"]) == ([LeaseId("lease-2")], 2, 1)
    assert (sum(copy.durations[JOB].counts), copy.durations[JOB].sum_s) == (1, 1.0)
    assert (copy.lost["lease_expired"], copy.deaths["exit"], copy.children) == (1, 1, {77})


def test_more_kinds_than_are_counted_apart_are_counted_together() -> None:
    ledger = Ledger()
    for number in range(APART + 5):
        ledger.began(claim(number, f"kind-{number}"), 77, 0.0)
        ledger.ended(LeaseId(f"lease-{number}"), "completed", 1.0)
    assert ledger.begun[What(LaneId(OTHER), OTHER)] == 5
    assert len(ledger.finished) == len(ledger.durations) == APART + 1
