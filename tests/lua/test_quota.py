"""ff_create_quota_policy, ff_check_admission_and_record and ff_release_admission: protocol 08, section 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.lua.world import Arg, World

ID = "22222222-2222-2222-2222-222222222222"
E1 = "{fp:7}:00000000-0000-0000-0000-000000000001"
E2 = "{fp:7}:00000000-0000-0000-0000-000000000002"
QUOTA = f"ff:quota:{{q:4}}:{ID}"
WINDOW, CONCURRENCY, ADMITTED = f"{QUOTA}:window:requests_per_window", f"{QUOTA}:concurrency", f"{QUOTA}:admitted_set"
POLICIES = "ff:idx:{q:4}:quota_policies"
NOW = 1_700_000_000_000
ADMISSION_NAMES = ["now_ms", "window_seconds", "rate_limit", "concurrency_cap"]


def guard(execution: str) -> str:
    return f"{QUOTA}:admitted:{execution}"


def create(world: World, *args: Arg) -> Any:
    keys = [QUOTA, WINDOW, CONCURRENCY, ADMITTED, POLICIES]
    return world.call("ff_create_quota_policy", keys, list(args))


def check(
    world: World,
    execution: str = E1,
    *,
    now: Arg = NOW,
    window: Arg = "60",
    rate: Arg = "0",
    cap: Arg = "0",
    jitter: Arg | None = None,
) -> Any:
    args: list[Arg] = [now, window, rate, cap, execution]
    return check_with(world, args if jitter is None else [*args, jitter], execution)


def check_with(world: World, args: Sequence[Arg], execution: str = E1) -> Any:
    keys = [WINDOW, CONCURRENCY, QUOTA, guard(execution), ADMITTED]
    return world.call("ff_check_admission_and_record", keys, list(args))


def release(world: World, execution: str = E1) -> Any:
    return world.call("ff_release_admission", [guard(execution), ADMITTED, CONCURRENCY], [execution])


# create


def test_creating_writes_the_policy_the_counter_and_the_index(world: World) -> None:
    with world.changes() as c:
        assert create(world, ID, "60", "ten", "", "noon") == [1, "OK", ID]
    assert c.removed == {}
    assert c.written == {
        QUOTA: {
            "quota_policy_id": ID,
            "requests_per_window_seconds": "60",
            "max_requests_per_window": "ten",
            "active_concurrency_cap": "",
            "created_at": "noon",
        },
        CONCURRENCY: "0",
        POLICIES: {ID},
    }
    assert world.expiries() == {}


def test_creating_again_changes_nothing_and_does_not_repair_the_index(world: World) -> None:
    create(world, ID, "60", "10", "2", NOW)
    world.redis.delete(POLICIES)
    world.redis.set(CONCURRENCY, 7)
    with world.unchanged():
        assert create(world, ID, "1", "1", "1", "1") == [1, "ALREADY_SATISFIED", ID]
        assert create(world, ID) == [1, "ALREADY_SATISFIED", ID]


@pytest.mark.parametrize(
    ("given", "name"),
    [(0, "quota_policy_id"), (1, "window_seconds"), (2, "rate_limit"), (3, "concurrency_cap"), (4, "now_ms")],
)
def test_an_absent_argument_of_a_policy_is_refused(world: World, given: int, name: str) -> None:
    with world.unchanged():
        reply = create(world, *[ID, "60", "10", "2"][:given])
    assert reply == [0, "invalid_input", f"{name} must be given, got: nil"]


# check


def test_admitting_records_the_window_the_guard_the_counter_and_the_member(world: World) -> None:
    before_ms = world.now_ms()
    with world.changes() as c:
        assert check(world, rate="10", cap="2") == ["ADMITTED"]
    assert c.written == {WINDOW: {E1: float(NOW)}, guard(E1): "1", CONCURRENCY: "1", ADMITTED: {E1}}
    assert c.removed == {}
    expiries = world.expiries()
    assert expiries.keys() == {guard(E1)}
    assert before_ms + 60_000 <= expiries[guard(E1)] <= world.now_ms() + 60_000


def test_while_the_guard_lives_a_repeat_is_already_admitted_whatever_else_it_says(world: World) -> None:
    check(world, cap="1")
    with world.unchanged():
        assert check(world, cap="1", rate="1") == ["ALREADY_ADMITTED"]
        assert check(world, window="nan", now="nan", jitter="bad") == ["ALREADY_ADMITTED"]


def test_after_the_guard_has_expired_a_repeat_is_admitted_anew(world: World) -> None:
    check(world, cap="5")
    world.redis.delete(guard(E1))
    with world.changes() as c:
        assert check(world, now=NOW + 1, cap="5") == ["ADMITTED"]
    assert c.written == {WINDOW: {E1: NOW + 1.0}, guard(E1): "1", CONCURRENCY: "2"}


@pytest.mark.parametrize("none", ["0", "-1", "nan", "-inf"])
def test_without_a_rate_or_a_cap_everything_is_admitted_and_not_counted(world: World, none: str) -> None:
    world.redis.zadd(WINDOW, {E2: NOW})
    world.redis.set(CONCURRENCY, "many")
    with world.changes() as c:
        assert check(world, rate=none, cap=none) == ["ADMITTED"]
    assert c.written.keys() == {WINDOW, guard(E1), ADMITTED}


def test_a_used_up_rate_is_refused_until_the_oldest_leaves_the_window(world: World) -> None:
    world.redis.zadd(WINDOW, {"old": NOW - 60_000, "a": NOW - 59_999, "b": NOW - 1})
    with world.changes() as c:
        assert check(world, rate="2", cap="1") == ["RATE_EXCEEDED", "1"]
    assert c.written == {}
    assert c.removed == {WINDOW: {"old": NOW - 60_000.0}}


def test_an_admission_at_the_very_edge_of_the_window_no_longer_counts(world: World) -> None:
    world.redis.zadd(WINDOW, {"a": NOW - 60_000})
    with world.changes() as c:
        assert check(world, rate="1") == ["ADMITTED"]
    assert c.removed == {WINDOW: {"a": NOW - 60_000.0}}
    assert c.written[WINDOW] == {E1: float(NOW)}


def test_the_rate_wins_over_the_cap(world: World) -> None:
    world.redis.zadd(WINDOW, {"a": NOW})
    world.redis.set(CONCURRENCY, 5)
    assert check(world, rate="1", cap="5") == ["RATE_EXCEEDED", "60000"]


@pytest.mark.parametrize(
    ("scores", "window", "text"),
    [
        ([NOW + 5000], "60", "65000"),
        ([NOW + 2e14], "60", "2.0000000006e+14"),
        ([NOW - 0.25], "1.5", "1499.75"),
        ([NOW + 5], "0", "5"),
        ([NOW + 5], "-0.001", "4"),
        ([NOW - 1], "inf", "inf"),
    ],
)
def test_the_retry_time_is_in_text_form(world: World, scores: list[float], window: str, text: str) -> None:
    world.redis.zadd(WINDOW, {str(score): score for score in scores})
    assert check(world, rate="1", window=window) == ["RATE_EXCEEDED", text]


def test_jitter_is_added_to_the_retry_time_by_chance(world: World) -> None:
    world.redis.zadd(WINDOW, {"a": NOW})
    waits = {int(check(world, rate="1", jitter="3")[1]) - 60_000 for _ in range(200)}
    assert waits == {0, 1, 2, 3}


@pytest.mark.parametrize("jitter", ["0", "-5", "nan", "-inf", "0.5"])
def test_jitter_below_one_adds_nothing(world: World, jitter: str) -> None:
    world.redis.zadd(WINDOW, {"a": NOW})
    assert check(world, rate="1", jitter=jitter) == ["RATE_EXCEEDED", "60000"]


@pytest.mark.parametrize("jitter", ["", "some", "inf"])
def test_bad_jitter_is_refused_before_the_window_is_trimmed(world: World, jitter: str) -> None:
    world.redis.zadd(WINDOW, {"old": 1, "a": NOW})
    with world.unchanged():
        status, code, detail = check(world, rate="1", jitter=jitter)
    assert [status, code] == [0, "invalid_input"]
    assert detail.startswith("jitter_ms must be ")


def test_bad_jitter_is_not_looked_at_when_the_rate_is_not_used_up(world: World) -> None:
    assert check(world, rate="1", jitter="bad") == ["ADMITTED"]


def test_a_used_up_cap_is_refused_and_the_window_is_trimmed_all_the_same(world: World) -> None:
    world.redis.zadd(WINDOW, {"old": 1})
    world.redis.set(CONCURRENCY, 2)
    with world.changes() as c:
        assert check(world, cap="2") == ["CONCURRENCY_EXCEEDED"]
    assert (c.written, c.removed) == ({}, {WINDOW: {"old": 1.0}})


def test_a_rejected_execution_is_admitted_once_there_is_room(world: World) -> None:
    assert check(world, E1, cap="1") == ["ADMITTED"]
    assert check(world, E2, cap="1") == ["CONCURRENCY_EXCEEDED"]
    release(world, E1)
    assert check(world, E2, cap="1") == ["ADMITTED"]
    assert world.value(ADMITTED) == {E2}


@pytest.mark.parametrize("damaged", ["", "many", "7 of 9"])
def test_a_damaged_counter_counts_as_zero_and_is_counted_from_there(world: World, damaged: str) -> None:
    world.redis.set(CONCURRENCY, damaged)
    assert check(world, cap="1") == ["ADMITTED"]
    assert world.value(CONCURRENCY) == "1"


@pytest.mark.parametrize(("window", "px"), [("1.5", 1500), ("0x10", 16_000), ("1e3", 1_000_000)])
def test_the_guard_lives_as_long_as_the_window(world: World, window: str, px: int) -> None:
    before_ms = world.now_ms()
    assert check(world, window=window) == ["ADMITTED"]
    assert before_ms + px <= world.expiries()[guard(E1)] <= world.now_ms() + px


@pytest.mark.parametrize("window", ["0", "-60", "-inf"])
def test_a_window_not_above_zero_has_no_guard_and_no_rate(world: World, window: str) -> None:
    for _ in range(2):
        assert check(world, window=window, rate="1") == ["ADMITTED"]
    assert world.redis.exists(guard(E1)) == 0


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize(("value", "got"), [("", ""), ("x", "x"), (None, "nil")])
def test_arguments_that_are_no_numbers_are_refused_in_order_and_before_the_guard(
    world: World, position: int, value: str | None, got: str
) -> None:
    world.redis.set(guard(E1), 1)
    args: list[Arg] = ["1"] * position
    if value is not None:
        args += [value, *(["bad"] * (3 - position)), E1]
    with world.unchanged():
        reply = check_with(world, args)
    assert reply == [0, "invalid_input", f"{ADMISSION_NAMES[position]} must be a number, got: {got}"]


@pytest.mark.parametrize(("now", "window"), [("nan", "60"), ("1", "nan"), ("inf", "inf"), ("-inf", "-inf")])
def test_times_without_a_difference_are_refused(world: World, now: str, window: str) -> None:
    world.redis.zadd(WINDOW, {"old": 1})
    with world.unchanged():
        reply = check(world, now=now, window=window)
    assert reply == [0, "invalid_input", f"now_ms - window_seconds must be a number, got: {now} - {window}"]


@pytest.mark.parametrize("window", ["0.0005", "2.0005", "1e14", "inf"])
def test_a_window_that_no_guard_can_have_is_refused_before_the_first_write(world: World, window: str) -> None:
    world.redis.zadd(WINDOW, {"old": 1})
    with world.unchanged():
        reply = check(world, window=window, rate="9", cap="9")
    assert reply == [0, "invalid_input", f"window_seconds must be an integer in ms, got: {window}"]


def test_a_window_that_no_guard_can_have_still_answers_a_rejection(world: World) -> None:
    world.redis.zadd(WINDOW, {"old": 1, "a": NOW})
    assert check(world, window="0.0005", rate="1") == ["RATE_EXCEEDED", "0.5"]
    assert world.value(WINDOW) == {"a": float(NOW)}


def test_an_absent_execution_id_is_refused_before_the_first_write(world: World) -> None:
    world.redis.zadd(WINDOW, {"old": 1})
    with world.unchanged():
        reply = check_with(world, [NOW, "60", "9", "9"])
    assert reply == [0, "invalid_input", "execution_id must be given, got: nil"]


# release


def test_releasing_takes_back_the_guard_the_member_and_the_slot_but_not_the_rate(world: World) -> None:
    check(world, rate="1", cap="2")
    with world.changes() as c:
        assert release(world) == [1, "OK", "released"]
    assert c.removed == {guard(E1): "1", ADMITTED: {E1}}
    assert c.written == {CONCURRENCY: "0"}
    assert check(world, rate="1") == ["RATE_EXCEEDED", "60000"]


def test_releasing_twice_takes_another_slot_but_never_goes_below_zero(world: World) -> None:
    check(world, E1, cap="2")
    check(world, E2, cap="2")
    for left in ("1", "0", "0"):
        assert release(world, E1) == [1, "OK", "released"]
        assert world.value(CONCURRENCY) == left


@pytest.mark.parametrize("counter", [None, "-3", "", "many", "7.5"])
def test_a_counter_without_a_slot_to_give_back_stays_as_it_is(world: World, counter: str | None) -> None:
    if counter is not None:
        world.redis.set(CONCURRENCY, counter)
    with world.unchanged():
        assert release(world) == [1, "OK", "released"]


def test_an_absent_execution_id_keeps_the_admission(world: World) -> None:
    check(world, cap="1")
    with world.unchanged():
        reply = world.call("ff_release_admission", [guard(E1), ADMITTED, CONCURRENCY], [])
    assert reply == [0, "invalid_input", "execution_id must be given, got: nil"]
