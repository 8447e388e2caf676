from __future__ import annotations

from ffsuper.messages import AttemptId, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.sansio.lease import LeaseBook


def lease(name: str, asked_at_s: float = 100.0, ttl_ms: int = 30_000) -> Lease:
    return Lease(
        ExecutionId(f"{{fp:1}}:{name}"), LaneId("default"), LeaseId(name), 1, AttemptId(name), 0, ttl_ms, asked_at_s
    )


def test_a_lease_is_due_after_a_third_of_its_length() -> None:
    book = LeaseBook(margin_s=2.0)
    book.track(lease("a"))
    assert book.due(109.9) == []
    assert book.due(110.0) == [lease("a")]


def test_a_lease_may_be_acted_on_until_its_margin_counted_from_before_the_question() -> None:
    book = LeaseBook(margin_s=2.0)
    book.track(lease("a"))
    assert book.past_deadline(127.9) == []
    assert book.past_deadline(128.0) == [lease("a")]


def test_a_renewal_counts_from_when_it_was_asked_for() -> None:
    book = LeaseBook(margin_s=2.0)
    book.track(lease("a"))
    book.renewed(LeaseId("a"), asked_at_s=110.0)
    assert book.due(119.9) == []
    assert (book.next_event_s(), book.next_deadline_s()) == (120.0, 138.0)


def test_a_postponed_renewal_keeps_the_deadline() -> None:
    book = LeaseBook(margin_s=2.0)
    book.track(lease("a"))
    book.postpone(LeaseId("a"), until_s=111.0)
    assert (book.due(110.5), book.next_deadline_s()) == ([], 128.0)


def test_the_most_urgent_renewal_comes_first() -> None:
    book = LeaseBook(margin_s=2.0)
    book.track(lease("late", asked_at_s=101.0))
    book.track(lease("early", asked_at_s=100.0))
    assert [one.lease_id for one in book.due(200.0)] == ["early", "late"]


def test_the_next_event_is_a_deadline_when_that_comes_first() -> None:
    book = LeaseBook(margin_s=2.0)
    book.track(lease("a"))
    book.postpone(LeaseId("a"), until_s=500.0)
    assert book.next_event_s() == 128.0


def test_a_released_lease_is_forgotten_whatever_arrives_afterwards() -> None:
    book = LeaseBook(margin_s=2.0)
    book.track(lease("a"))
    assert (len(book), LeaseId("a") in book) == (1, True)
    book.release(LeaseId("a"))
    book.release(LeaseId("a"))
    book.renewed(LeaseId("a"), 110.0)
    book.postpone(LeaseId("a"), 110.0)
    assert (len(book), LeaseId("a") in book) == (0, False)
    assert (book.next_event_s(), book.next_deadline_s(), book.due(1e9)) == (None, None, [])


def test_a_hastened_lease_is_due_at_once_and_keeps_its_deadline() -> None:
    book = LeaseBook(margin_s=2.0)
    book.track(lease("a"))
    book.track(lease("b"))
    book.hasten(ExecutionId("{fp:1}:a"))
    book.hasten(ExecutionId("{fp:1}:unknown"))
    assert book.due(100.0) == [lease("a")]
    assert book.next_deadline_s() == 128.0
    book.renewed(LeaseId("a"), asked_at_s=100.0)
    assert book.due(100.0) == []
