from __future__ import annotations

from ffsuper.sansio.retention import DEFAULT_MS, EXACT, Ages


def test_new_executions_and_those_of_a_day_are_always_looked_at() -> None:
    ages = Ages[str]()
    assert ages.of(["a"]) == [0, DEFAULT_MS]
    assert ages.having(0, ["a", "b"]) == ["a", "b"]
    assert ages.having(DEFAULT_MS, ["a"]) == ["a"]


def test_a_retention_that_was_seen_is_an_age_of_its_index() -> None:
    ages = Ages[str]()
    ages.learn("a", {"kept:5000": 3, f"kept:{DEFAULT_MS}": 1, "trimmed": 2})
    assert ages.of(["a", "b"]) == [0, 5_000, DEFAULT_MS]
    assert ages.of(["b"]) == [0, DEFAULT_MS]
    assert ages.having(5_000, ["a", "b"]) == ["a"]


def test_very_many_retentions_are_rounded_up_so_that_their_number_is_bounded() -> None:
    ages = Ages[str]()
    for retention_ms in range(1_000, 1_000_000, 7):
        ages.learn("a", {f"kept:{retention_ms}": 1})
    assert len(ages.of(["a"])) <= 2 + EXACT + 20
    assert max(ages.of(["a"])[:-1]) >= 1_000_000 - 7
