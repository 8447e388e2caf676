"""Whose turn it is."""

from __future__ import annotations

import math

from ffsuper.messages import ExecutionId
from ffsuper.sansio.turns import AGEING_MS, PRIORITY_STEP, Waiting, in_turn, level, rank

NOW_MS = 1_000_000.0


def one(name: str, priority: int = 0, age_ms: float = 0, namespace: str = "a") -> Waiting:
    return Waiting(ExecutionId(name), priority, NOW_MS - age_ms, namespace, "", "")


def order(*waiting: Waiting, last_turns: dict[str, float] | None = None) -> list[str]:
    return [found.execution_id for found in in_turn(waiting, last_turns or {}, NOW_MS)]


def test_nobody_waits() -> None:
    assert order() == []


def test_the_highest_priority_comes_first_then_the_oldest() -> None:
    assert order(one("new"), one("old", age_ms=5), one("urgent", priority=2)) == ["urgent", "old", "new"]


def test_waiting_is_worth_priority() -> None:
    assert level(one("x", 3, age_ms=AGEING_MS - 1), NOW_MS) == 3
    assert level(one("x", 3, age_ms=2 * AGEING_MS), NOW_MS) == 5
    assert level(one("from tomorrow", 3, age_ms=-AGEING_MS), NOW_MS) == 3
    assert order(one("urgent", priority=1), one("patient", age_ms=2 * AGEING_MS)) == ["patient", "urgent"]


def test_namespaces_take_turns_each_with_its_oldest() -> None:
    busy = [one(f"b{number}", age_ms=100 - number, namespace="b") for number in range(3)]
    quiet = [one(f"q{number}", age_ms=10 - number, namespace="q") for number in range(2)]
    assert order(*busy, *quiet) == ["b0", "q0", "b1", "q1", "b2"]


def test_who_had_its_turn_before_waits_for_the_others() -> None:
    waiting = one("b", age_ms=100, namespace="b"), one("q", namespace="q"), one("n", namespace="n")
    assert order(*waiting, last_turns={"b": 20.0, "q": 10.0}) == ["n", "q", "b"]


def test_turns_go_on_across_levels() -> None:
    waiting = [one("b-high", 1, namespace="b"), one("b-low", age_ms=5, namespace="b"), one("q-low", namespace="q")]
    assert order(*waiting) == ["b-high", "q-low", "b-low"]


def test_an_index_ranks_by_its_first_execution() -> None:
    now_ms = 1.8e12
    scores = {
        "elsewhere": -math.inf,
        "urgent": now_ms - 9 * PRIORITY_STEP,
        "aged": now_ms - 3 * AGEING_MS,
        "next": now_ms - 5 - 2 * PRIORITY_STEP,
        "last": now_ms - 2 * PRIORITY_STEP,
        "new": now_ms,
        "damaged": math.inf,
    }
    assert sorted(scores, key=lambda name: rank(scores[name], now_ms)) == list(scores)
