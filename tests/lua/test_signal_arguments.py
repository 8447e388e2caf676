"""Arguments of the two signal functions: duplicates, limits, what is stored. Protocol 06 sections 11 and 12."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lua.signals import ARRIVED, DEDUP, POINT, SIGNAL_KEY, TWO_NAMES, buffer, deliver
from tests.lua.suspensions import KEYS, UNSET, field, put, put_active, put_pending, put_suspended, suspend
from tests.lua.world import World


def test_a_repeated_signal_is_a_duplicate_for_the_time_of_the_first(world: World) -> None:
    token = put_suspended(world, TWO_NAMES)
    before = world.now_ms()
    assert deliver(world, token, idempotency_key="once", dedup_ttl_ms="5000")[1] == "OK"
    assert world.value(DEDUP) == "signal-1"
    assert before + 5000 <= world.expiries()[DEDUP] <= world.now_ms() + 5000
    assert field(world, SIGNAL_KEY, "idempotency_key") == "once"
    with world.unchanged():
        reply = deliver(
            world,
            token,
            signal_id="s2",
            idempotency_key="once",
            dedup_ttl_ms="0.5",
            signal_maxlen="",
            resume_delay_ms="",
        )
    assert reply == [1, "DUPLICATE", "signal-1"]


def test_a_key_used_while_buffering_makes_the_live_delivery_a_duplicate(world: World) -> None:
    put_active(world)
    token = put_pending(world)
    buffer(world, token, idempotency_key="once")
    suspend(world, use_pending_waitpoint="1", resume_condition_json='{"required_signal_names":["x"]}')
    assert deliver(world, token, signal_id="s2", idempotency_key="once") == [1, "DUPLICATE", "signal-1"]


@pytest.mark.parametrize("call", [deliver, buffer])
@pytest.mark.parametrize("ttl", ["", "never", "0", "-5", "nan"])
def test_without_a_time_to_remember_nothing_is_a_duplicate(world: World, call: Any, ttl: str) -> None:
    token = put_suspended(world, TWO_NAMES)
    world.command("SET", DEDUP, "first")
    assert call(world, token, idempotency_key="once", dedup_ttl_ms=ttl)[1] == "OK"
    assert world.value(DEDUP) == "first"


@pytest.mark.parametrize("call", [deliver, buffer])
def test_without_an_idempotency_key_the_placeholder_is_never_touched(world: World, call: Any) -> None:
    token = put_suspended(world, TWO_NAMES)
    world.command("SET", KEYS.partition.noop, "x")
    assert call(world, token)[1] == "OK"
    assert world.value(KEYS.partition.noop) == "x"


def test_the_same_signal_without_a_key_is_recorded_again(world: World) -> None:
    token = put_suspended(world, TWO_NAMES)
    assert [deliver(world, token)[-1] for _ in range(2)] == ["appended_to_waitpoint", "no_op"]
    assert field(world, SIGNAL_KEY, "observed_effect") == "no_op"
    assert world.value(KEYS.part("signals")).keys() == {"signal-1"}
    assert len(world.value(ARRIVED)) == 2
    assert field(world, POINT, "signal_count") == "2"
    assert field(world, POINT, "matched_signal_count") == "1"


def test_repeating_the_signal_that_resumed_the_execution_changes_nothing(world: World) -> None:
    token = put_suspended(world)
    deliver(world, token, idempotency_key="once")
    with world.unchanged():
        assert deliver(world, token, idempotency_key="once") == [0, "target_not_signalable"]
    put(world, KEYS.core, lifecycle_phase="suspended")
    with world.unchanged():
        assert deliver(world, token, idempotency_key="once") == [0, "waitpoint_closed"]


@pytest.mark.parametrize("call", [deliver, buffer])
@pytest.mark.parametrize("payload", [b'{"a":1}', b"\x00\xff\xfe", b"0"])
def test_a_payload_is_kept_byte_for_byte(world: World, call: Any, payload: bytes) -> None:
    token = put_suspended(world, TWO_NAMES)
    assert call(world, token, payload=payload)[1] == "OK"
    assert world.redis.get(KEYS.signal("signal-1", "payload")) == payload
    assert world.expiries() == {}


@pytest.mark.parametrize("call", [deliver, buffer])
def test_empty_arguments_are_stored_empty_and_an_empty_time_is_the_servers(world: World, call: Any) -> None:
    token = put_suspended(world, TWO_NAMES)
    names = (
        "signal_category",
        "source_type",
        "source_identity",
        "payload_encoding",
        "correlation_id",
        "target_scope",
    )
    call(world, token, created_at="", **dict.fromkeys(names, ""))
    record = world.value(SIGNAL_KEY)
    assert {record[name] for name in names} == {""}
    assert record["created_at"] == record["accepted_at"]


@pytest.mark.parametrize("call", [deliver, buffer])
def test_an_absent_token_is_a_missing_one(world: World, call: Any) -> None:
    put_suspended(world)
    for name in ("execution_id", "waitpoint_id", "waitpoint_token"):
        assert call(world, "", **{name: UNSET}) == [0, "missing_token"]


MAXLEN = "signal_maxlen must be an integer >= 0, got: {}"
TTL = "dedup_ttl_ms must be an integer, got: {}"
BAD = [
    ("max_signals_per_execution", "max_signals_per_execution must be a number, got: {}", ["", "many"]),
    ("signal_maxlen", "signal_maxlen must be a number, got: {}", ["", "many"]),
    ("signal_maxlen", MAXLEN, ["-1", "1.5", "nan", "inf", "1e17"]),
    ("dedup_ttl_ms", TTL, ["0.5", "1e17", "inf"]),
]


@pytest.mark.parametrize("call", [deliver, buffer])
@pytest.mark.parametrize(("name", "detail", "value"), [(n, d, v) for n, d, values in BAD for v in values])
def test_a_bad_number_is_refused_where_the_reference_records_half_a_signal(
    world: World, call: Any, name: str, detail: str, value: str
) -> None:
    token = put_suspended(world)
    with world.unchanged():
        reply = call(world, token, **{"idempotency_key": "once", "payload": "x", name: value})
        assert reply == [0, "invalid_input", detail.format(value)]


@pytest.mark.parametrize("call", [deliver, buffer])
@pytest.mark.parametrize(("maxlen", "kept"), [("0", 0), ("-0", 0), ("1e2", 1), (" 5 ", 1), ("0x10", 1)])
def test_the_number_of_arrivals_kept_is_the_callers(world: World, call: Any, maxlen: str, kept: int) -> None:
    token = put_suspended(world, TWO_NAMES)
    assert call(world, token, signal_maxlen=maxlen)[1] == "OK"
    assert len(world.value(ARRIVED) or []) == kept


@pytest.mark.parametrize("delay", ["", "soon"])
def test_a_bad_delay_is_refused_only_when_the_signal_would_resume_the_execution(world: World, delay: str) -> None:
    token = put_suspended(world, TWO_NAMES)
    assert deliver(world, token, resume_delay_ms=delay)[-1] == "appended_to_waitpoint"
    assert deliver(world, token, resume_delay_ms=delay)[-1] == "no_op"
    with world.unchanged():
        reply = deliver(world, token, signal_name="paid", resume_delay_ms=delay)
    assert reply == [0, "invalid_input", f"resume_delay_ms must be a number, got: {delay}"]


def test_damaged_counters_of_a_waitpoint_start_again(world: World) -> None:
    token = put_suspended(world, TWO_NAMES)
    put(world, POINT, signal_count="", matched_signal_count="x")
    deliver(world, token)
    assert (field(world, POINT, "signal_count"), field(world, POINT, "matched_signal_count")) == ("1", "1")
