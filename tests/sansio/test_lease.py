from __future__ import annotations

import math

import pytest

from ffsuper.messages import AttemptId, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.sansio.lease import CLEARED_TIMES, LeaseBook, Schedule


def lease(name: str, asked_at_s: float = 100.0, ttl_ms: int = 30_000, execution: str = "") -> Lease:
    execution_id = ExecutionId(f"{{fp:1}}:{execution or name}")
    return Lease(execution_id, LaneId("default"), LeaseId(name), 1, AttemptId(name), 0, ttl_ms, asked_at_s)


def book_of(*leases: Lease) -> LeaseBook:
    book = LeaseBook(margin_s=2.0)
    for one in leases:
        book.track(one)
    return book


def test_a_lease_is_due_after_a_third_of_its_length() -> None:
    book = book_of(lease("a"))
    assert book.take_due(109.9) == []
    assert book.take_due(110.0) == [lease("a")]


def test_what_is_asked_for_is_not_due_until_there_is_an_answer_or_none() -> None:
    book = book_of(lease("a"))
    book.take_due(110.0)
    assert book.take_due(127.0) == []
    assert book.next_event_s() == 128.0
    book.postpone(LeaseId("a"), until_s=112.0)
    assert book.take_due(111.9) == []
    assert book.take_due(112.0) == [lease("a")]


def test_a_lease_may_be_acted_on_until_its_margin_counted_from_before_the_question() -> None:
    book = book_of(lease("a"))
    assert book.take_overdue(127.9) == []
    assert book.take_overdue(128.0) == [lease("a")]
    assert LeaseId("a") not in book


def test_a_lease_that_is_asked_for_is_given_up_at_its_deadline_and_a_later_answer_changes_nothing() -> None:
    book = book_of(lease("a"))
    book.take_due(110.0)
    assert book.take_overdue(128.0) == [lease("a")]
    book.renewed(LeaseId("a"), asked_at_s=110.0)
    book.postpone(LeaseId("a"), until_s=129.0)
    book.hasten(lease("a").execution_id)
    assert (len(book), book.next_event_s()) == (0, math.inf)


def test_a_renewal_counts_from_when_it_was_asked_for() -> None:
    book = book_of(lease("a"))
    book.take_due(110.0)
    book.renewed(LeaseId("a"), asked_at_s=110.0)
    assert (book.next_event_s(), book.next_deadline_s()) == (120.0, 138.0)


def test_a_postponed_renewal_keeps_the_deadline() -> None:
    book = book_of(lease("a"))
    book.postpone(LeaseId("a"), until_s=111.0)
    assert (book.take_due(110.5), book.next_deadline_s()) == ([], 128.0)


def test_the_next_event_is_a_deadline_when_that_comes_first() -> None:
    book = book_of(lease("a"))
    book.postpone(LeaseId("a"), until_s=500.0)
    assert book.next_event_s() == 128.0


def test_what_is_due_within_a_quarter_of_the_time_comes_along_and_falls_due_together_afterwards() -> None:
    first, soon, later = lease("first"), lease("soon", 102.4), lease("later", 102.6)
    book = book_of(later, soon, first)
    assert book.take_due(109.9) == []
    assert book.take_due(110.0) == [first, soon]
    for one in (first, soon):
        book.renewed(one.lease_id, asked_at_s=110.0)
    assert book.take_due(112.6) == [later]
    assert book.take_due(119.9) == []
    assert book.take_due(120.0) == [first, soon]


def test_the_shortest_lease_that_is_due_says_how_early_others_come_along() -> None:
    short, long, other = lease("short", 107.0, 9_000), lease("long"), lease("other", 101.5)
    assert book_of(short, long, other).take_due(110.0) == [short, long]
    assert book_of(long, other).take_due(110.0) == [long, other]


@pytest.mark.parametrize("step", ["release", "take_overdue"])
def test_a_lease_that_is_gone_is_forgotten_whatever_arrives_afterwards(step: str) -> None:
    book = book_of(lease("a"))
    assert (len(book), LeaseId("a") in book) == (1, True)
    if step == "release":
        book.release(LeaseId("a"))
    else:
        book.take_overdue(128.0)
    book.release(LeaseId("a"))
    book.renewed(LeaseId("a"), 110.0)
    book.postpone(LeaseId("a"), 110.0)
    assert (len(book), LeaseId("a") in book) == (0, False)
    assert (book.next_event_s(), book.next_deadline_s(), book.take_due(1e9)) == (math.inf, math.inf, [])


def test_a_hastened_lease_is_due_at_once_and_keeps_its_deadline() -> None:
    book = book_of(lease("a"), lease("b"))
    book.hasten(ExecutionId("{fp:1}:a"))
    book.hasten(ExecutionId("{fp:1}:a"))
    book.hasten(ExecutionId("{fp:1}:unknown"))
    assert book.next_event_s() == -math.inf
    assert book.take_due(100.0) == [lease("a")]
    assert book.next_deadline_s() == 128.0
    book.renewed(LeaseId("a"), asked_at_s=100.0)
    assert book.take_due(100.0) == []


def test_a_hastened_lease_brings_no_other_along() -> None:
    book = book_of(lease("a"), lease("b"), lease("c", 101.0))
    book.hasten(ExecutionId("{fp:1}:a"))
    assert book.take_due(109.0) == [lease("a")]
    book.hasten(ExecutionId("{fp:1}:c"))
    assert book.take_due(110.0) == [lease("c", 101.0), lease("b")]


def test_a_lease_that_is_hastened_while_it_is_asked_for_is_asked_for_once_more() -> None:
    book = book_of(lease("a"))
    book.take_due(110.0)
    book.hasten(ExecutionId("{fp:1}:a"))
    assert book.take_due(110.1) == []
    book.renewed(LeaseId("a"), asked_at_s=110.0)
    assert (book.take_due(110.2), book.next_deadline_s()) == ([lease("a")], 138.0)
    book.renewed(LeaseId("a"), asked_at_s=110.2)
    assert book.take_due(110.3) == []


def test_the_next_try_of_a_postponed_renewal_is_what_hastening_it_has_asked_for() -> None:
    book = book_of(lease("a"))
    book.take_due(110.0)
    book.hasten(ExecutionId("{fp:1}:a"))
    book.postpone(LeaseId("a"), until_s=112.0)
    assert book.take_due(111.9) == []
    assert book.take_due(112.0) == [lease("a")]
    book.renewed(LeaseId("a"), asked_at_s=112.0)
    assert book.take_due(112.1) == []


def test_an_executions_next_lease_may_come_before_the_last_one_is_released() -> None:
    old, new = lease("old", execution="x"), lease("new", asked_at_s=105.0, execution="x")
    book = book_of(old, new)
    book.hasten(old.execution_id)
    assert book.take_due(105.0) == [old, new]
    for one in (old, new):
        book.renewed(one.lease_id, asked_at_s=105.0)
    book.release(old.lease_id)
    book.hasten(old.execution_id)
    assert book.take_due(105.1) == [new]


def test_times_that_nothing_is_due_at_any_more_do_not_gather() -> None:
    schedule = Schedule()
    for number in range(100 * CLEARED_TIMES):
        schedule.add(1000.0 + number, lease("short"))
        schedule.remove(1000.0 + number, LeaseId("short"))
    schedule.add(1.0, lease("a"))
    assert len(schedule._times) <= CLEARED_TIMES + 2
    assert schedule.first_s() == 1.0
    assert (schedule.take_until(1e9), schedule.first_s()) == ([lease("a")], math.inf)
