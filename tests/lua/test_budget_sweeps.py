"""ffsuper_reset_budgets, ffsuper_reconcile_budgets, ffsuper_reconcile_quotas."""

from __future__ import annotations

from typing import Any

import pytest

from ffsuper.store.keys import BudgetKeys, QuotaKeys
from tests.lua.suspensions import put
from tests.lua.world import World

BUDGET = BudgetKeys(3, "0b1f9e9c-0000-4000-8000-00000000000b")
QUOTA = QuotaKeys(5, "0b1f9e9c-0000-4000-8000-00000000000c")
RESETS = "ff:idx:{b:3}:budget_resets"
BUDGETS = "ff:idx:{b:3}:budget_policies"
QUOTAS = "ff:idx:{q:5}:quota_policies"


def outcomes(reply: Any, at: int) -> dict[str, int]:
    assert reply[:2] == [1, "OK"]
    return dict(zip(reply[at::2], reply[at + 1 :: 2], strict=True))


def reset(world: World) -> dict[str, int]:
    return outcomes(world.call("ffsuper_reset_budgets", [RESETS], ["-inf", 0, 9]), 8)


def reconcile_budgets(world: World) -> dict[str, int]:
    return outcomes(world.call("ffsuper_reconcile_budgets", [BUDGETS], [0, 100]), 6)


def reconcile_quotas(world: World) -> dict[str, int]:
    return outcomes(world.call("ffsuper_reconcile_quotas", [QUOTAS], [0, 100]), 6)


def budget(world: World, used: Any = 5, **definition: Any) -> None:
    put(world, BUDGET.definition, budget_id=BUDGET.id, **definition)
    put(world, BUDGET.limits, **{"hard:tokens": "10", "soft:tokens": "1", "hard:other": "0"})
    put(world, BUDGET.usage, tokens=str(used), other="99")
    world.redis.sadd(BUDGETS, BUDGET.id)


def test_a_budget_that_is_due_is_reset_and_due_again_an_interval_later(world: World) -> None:
    budget(world, reset_interval_ms="60000")
    world.redis.zadd(RESETS, {BUDGET.id: 1_000})
    assert reset(world) == {"reset": 1}
    assert world.value(BUDGET.usage) == {"tokens": "0", "other": "0"}
    assert abs(world.value(RESETS)[BUDGET.id] - world.now_ms() - 60_000) < 1_000
    assert reset(world) == {}


def test_a_budget_that_is_not_there_leaves_the_index_and_is_not_made(world: World) -> None:
    world.redis.zadd(RESETS, {BUDGET.id: 1_000})
    assert reset(world) == {"gone": 1}
    assert world.keyspace() == {}


@pytest.mark.parametrize(("used", "outcome"), [(10, "unchanged"), (11, "marked"), ("x", "unchanged")])
def test_a_budget_without_resets_is_marked_above_a_hard_limit(world: World, used: Any, outcome: str) -> None:
    budget(world, used)
    assert reconcile_budgets(world) == {outcome: 1}
    assert ("breached_at" in world.value(BUDGET.usage)) == (outcome == "marked")
    assert reconcile_budgets(world) == {"unchanged": 1}


def test_the_mark_goes_when_the_limit_is_kept_again(world: World) -> None:
    budget(world, 5)
    put(world, BUDGET.usage, breached_at="5")
    assert reconcile_budgets(world) == {"unmarked": 1}
    assert "breached_at" not in world.value(BUDGET.usage)


@pytest.mark.parametrize("definition", [{"reset_interval_ms": "60000"}, {"reset_interval_ms": "x"}])
def test_a_budget_with_resets_is_left_alone(world: World, definition: dict[str, str]) -> None:
    budget(world, 11, **definition)
    with world.unchanged():
        assert reconcile_budgets(world) == {"unchanged": 1}


def test_budgets_and_quotas_that_are_gone_are_forgotten(world: World) -> None:
    world.redis.sadd(BUDGETS, BUDGET.id)
    world.redis.sadd(QUOTAS, QUOTA.id)
    assert reconcile_budgets(world) == {"gone": 1}
    assert reconcile_quotas(world) == {"gone": 1}
    assert world.keyspace() == {}


def quota(world: World, admitted: int, guarded: int, counter: Any) -> None:
    put(
        world,
        QUOTA.definition,
        quota_policy_id=QUOTA.id,
        requests_per_window_seconds="10",
        max_requests_per_window="5",
        active_concurrency_cap="4",
    )
    world.redis.sadd(QUOTAS, QUOTA.id)
    for number in range(admitted):
        world.redis.sadd(f"{QUOTA.definition}:admitted_set", f"e{number}")
        if number < guarded:
            world.redis.set(f"{QUOTA.definition}:admitted:e{number}", 1)
    world.redis.set(QUOTA.concurrency, counter)


@pytest.mark.parametrize("counter", [7, 0, "nonsense"])
def test_a_quotas_counter_follows_its_guards(world: World, counter: Any) -> None:
    quota(world, admitted=3, guarded=2, counter=counter)
    assert reconcile_quotas(world) == {"corrected": 1}
    assert world.value(QUOTA.concurrency) == "2"
    assert world.value(f"{QUOTA.definition}:admitted_set") == {"e0", "e1"}
    assert reconcile_quotas(world) == {"unchanged": 1}


def test_admissions_that_have_left_the_window_are_trimmed(world: World) -> None:
    quota(world, admitted=0, guarded=0, counter=0)
    now_ms = world.now_ms()
    world.redis.zadd(QUOTA.window, {"old": now_ms - 11_000, "new": now_ms - 1_000})
    assert reconcile_quotas(world) == {"unchanged": 1}
    assert set(world.value(QUOTA.window)) == {"new"}


def test_who_was_admitted_by_our_scheduler_keeps_its_place_when_its_guard_has_gone(world: World) -> None:
    quota(world, admitted=3, guarded=1, counter=3)
    world.redis.hset(QUOTA.stamps, "e2", "1700000000000000")
    assert reconcile_quotas(world) == {"corrected": 1}
    assert world.value(f"{QUOTA.definition}:admitted_set") == {"e0", "e2"}
    assert world.redis.get(QUOTA.concurrency) == b"2"


def test_a_quota_without_a_cap_keeps_its_counter(world: World) -> None:
    quota(world, admitted=2, guarded=2, counter=9)
    put(world, QUOTA.definition, active_concurrency_cap="0")
    assert reconcile_quotas(world) == {"unchanged": 1}
    assert world.value(QUOTA.concurrency) == "9"


def test_damaged_ones_are_told_and_hide_no_others(world: World) -> None:
    quota(world, admitted=1, guarded=1, counter=5)
    world.redis.sadd(QUOTAS, "damaged")
    world.redis.set("ff:quota:{q:5}:damaged", "x")
    reply = world.call("ffsuper_reconcile_quotas", [QUOTAS], [0, 100])
    assert reply[3:5] == [1, "damaged"]
    assert outcomes(reply, 6) == {"corrected": 1}
