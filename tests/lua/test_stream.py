"""ff_append_frame: protocol 07, section 3."""

from __future__ import annotations

import pytest

from tests.lua.frames import (
    APPEND_KEYS,
    ATTEMPT_ID,
    CORRELATION_ID,
    ENCODING,
    EXECUTION,
    FRAME_TYPE,
    FRAMES,
    KEYS,
    LEASE_ID,
    MAX_PAYLOAD_BYTES,
    META,
    PAYLOAD,
    RETENTION_MAXLEN,
    SOURCE,
    TS,
    append,
    frame_args,
    running,
)
from tests.lua.suspensions import nothing_published
from tests.lua.world import Arg, World

ALL_BYTES = bytes(range(256))
NOT_WHOLE = ["", "many", "1.5", "-1", "nan", "inf", "-inf", "1e17"]


def test_first_frame_makes_the_stream_and_its_description(world: World) -> None:
    running(world)
    before_ms = world.now_ms()
    with world.changes() as c:
        status, word, entry_id, count = append(world)
    now = c.written[META]["created_at"]
    assert [status, word, count] == [1, "OK", "1"]
    assert before_ms <= int(now) <= world.now_ms()
    assert c.removed == {}
    frame = ("frame_type", "delta", "ts", "1700", "payload", "hello", "encoding", "utf8", "source", "worker")
    assert c.written == {
        FRAMES: [frame],
        META: {
            "stream_id": f"{EXECUTION}:0",
            "execution_id": EXECUTION,
            "attempt_id": "attempt",
            "attempt_index": "0",
            "created_at": now,
            "closed_at": "",
            "closed_reason": "",
            "durability_mode": "durable_full",
            "retention_maxlen": "0",
            "last_sequence": entry_id,
            "frame_count": "1",
            "total_bytes": "5",
            "last_frame_at": now,
        },
    }
    assert world.expiries() == {}


def test_later_frame_only_counts_and_keeps_the_first_retention(world: World) -> None:
    running(world)
    append(world)
    with world.changes() as c:
        reply = append(world, {PAYLOAD: "abc", RETENTION_MAXLEN: "100", ATTEMPT_ID: "other"})
    assert reply == [1, "OK", c.written[META]["last_sequence"], "2"]
    assert c.written[META].keys() - {"last_frame_at"} == {"last_sequence", "frame_count", "total_bytes"}
    assert c.written[META]["frame_count"] == "2"
    assert c.written[META]["total_bytes"] == "8"
    assert len(c.written[FRAMES]) == 1


def test_repeating_an_append_adds_a_frame_each_time(world: World) -> None:
    running(world)
    replies = [append(world) for _ in range(3)]
    assert [reply[3] for reply in replies] == ["1", "2", "3"]
    assert len({reply[2] for reply in replies}) == 3
    assert world.redis.xlen(FRAMES) == 3


def test_correlation_id_comes_last_and_only_when_it_is_set(world: World) -> None:
    running(world)
    append(world, {CORRELATION_ID: "req-1", SOURCE: "tool", ENCODING: "json"})
    tail = ("encoding", "json", "source", "tool", "correlation_id", "req-1")
    assert world.value(FRAMES)[0][-6:] == tail


def test_absent_arguments_take_their_defaults(world: World) -> None:
    running(world)
    assert world.call("ff_append_frame", APPEND_KEYS, frame_args()[:5])[:2] == [1, "OK"]
    meta, frame = world.value(META), world.value(FRAMES)[0]
    assert frame == (
        *("frame_type", "delta", "ts", meta["last_frame_at"], "payload", ""),
        *("encoding", "utf8", "source", "worker"),
    )
    assert (meta["attempt_id"], meta["retention_maxlen"], meta["total_bytes"]) == ("", "0", "0")


def test_empty_texts_are_stored_empty_but_an_empty_time_is_the_servers(world: World) -> None:
    running(world)
    append(world, dict.fromkeys([FRAME_TYPE, TS, PAYLOAD, ENCODING, SOURCE, ATTEMPT_ID], ""))
    meta, frame = world.value(META), world.value(FRAMES)[0]
    assert frame == (
        *("frame_type", "", "ts", meta["last_frame_at"], "payload", ""),
        *("encoding", "", "source", ""),
    )
    assert meta["attempt_id"] == ""


def test_a_payload_of_any_bytes_comes_back_as_it_was(world: World) -> None:
    running(world)
    entry_id = append(world, {PAYLOAD: ALL_BYTES, FRAME_TYPE: b"\xff\x00", CORRELATION_ID: b"\x80"})[2]
    assert world.value(META)["total_bytes"] == "256"
    reply = world.command("FCALL", "ff_read_attempt_stream", 2, FRAMES, META, "-", "+", "1")
    [[read_id, fields]] = reply[2]
    assert read_id == entry_id.encode()
    assert dict(zip(fields[::2], fields[1::2], strict=True)) == {
        b"frame_type": b"\xff\x00",
        b"ts": b"1700",
        b"payload": ALL_BYTES,
        b"encoding": b"utf8",
        b"source": b"worker",
        b"correlation_id": b"\x80",
    }


@pytest.mark.parametrize(("limit", "payload", "fits"), [("4", b"\xc3\xa9\xc3\xa9", True), ("3", "abcd", False)])
def test_the_payload_limit_counts_bytes_and_is_itself_allowed(
    world: World, limit: str, payload: Arg, fits: bool
) -> None:
    running(world)
    reply = append(world, {PAYLOAD: payload, MAX_PAYLOAD_BYTES: limit})
    assert reply[:2] == ([1, "OK"] if fits else [0, "retention_limit_exceeded"])


@pytest.mark.parametrize(("limit", "payload", "fits"), [("0", "", True), ("0", "x", False), ("-1", "", False)])
def test_payload_limits_of_zero_and_below(world: World, limit: str, payload: str, fits: bool) -> None:
    running(world)
    reply = append(world, {PAYLOAD: payload, MAX_PAYLOAD_BYTES: limit})
    assert reply[:2] == ([1, "OK"] if fits else [0, "retention_limit_exceeded"])


def test_the_default_payload_limit_is_64_kib(world: World) -> None:
    running(world)
    reply = world.call("ff_append_frame", APPEND_KEYS, frame_args({PAYLOAD: "x" * 65537})[:12])
    assert reply == [0, "retention_limit_exceeded"]


def test_an_oversized_payload_is_refused_before_the_execution_is_looked_at(world: World) -> None:
    with world.unchanged():
        assert append(world, {MAX_PAYLOAD_BYTES: "4"}) == [0, "retention_limit_exceeded"]


@pytest.mark.parametrize("limit", ["", "big"])
def test_a_payload_limit_that_is_no_number_is_refused(world: World, limit: str) -> None:
    running(world)
    with world.unchanged():
        reply = append(world, {MAX_PAYLOAD_BYTES: limit})
    assert reply == [0, "invalid_input", f"max_payload_bytes must be a number, got: {limit}"]


@pytest.mark.parametrize("phase", ["runnable", "suspended", "terminal", ""])
def test_a_phase_other_than_active_wins_over_a_lost_lease(world: World, phase: str) -> None:
    running(world, lifecycle_phase=phase, ownership_state="lease_revoked")
    with world.unchanged():
        assert append(world, {LEASE_ID: "other"}) == [0, "stream_closed"]


def test_an_unknown_execution_has_a_closed_stream(world: World) -> None:
    with world.unchanged():
        assert append(world) == [0, "stream_closed"]


@pytest.mark.parametrize(
    "fields",
    [
        {"ownership_state": "lease_expired_reclaimable"},
        {"ownership_state": "lease_revoked"},
        {"lease_expires_at": "1700000000000"},
        {"lease_expires_at": ""},
        {"lease_expires_at": "soon"},
        {"current_attempt_index": "1"},
        {"current_lease_id": "newer"},
        {"current_lease_epoch": "2"},
        {"current_lease_epoch": "01"},
    ],
)
def test_a_lost_lease_wins_over_a_closed_stream_and_marks_nothing(world: World, fields: dict[str, str]) -> None:
    running(world, **fields)
    world.redis.hset(META, "closed_at", "1700")
    with world.unchanged():
        assert append(world, {RETENTION_MAXLEN: "bad"}) == [0, "stale_owner_cannot_append"]


def test_a_record_without_an_expiry_has_no_owner(world: World) -> None:
    running(world)
    world.redis.hdel(KEYS.core, "lease_expires_at")
    with world.unchanged():
        assert append(world) == [0, "stale_owner_cannot_append"]


@pytest.mark.parametrize("kept", range(4))
def test_absent_owner_arguments_are_a_lost_lease(world: World, kept: int) -> None:
    running(world)
    with world.unchanged():
        reply = world.call("ff_append_frame", APPEND_KEYS, frame_args()[:kept])
    assert reply == [0, "stale_owner_cannot_append"]


def test_a_closed_stream_wins_over_bad_arguments(world: World) -> None:
    running(world)
    append(world)
    world.redis.hset(META, "closed_at", "1700")
    with world.unchanged():
        assert append(world, {RETENTION_MAXLEN: "bad"}) == [0, "stream_closed"]


def test_an_absent_frame_type_is_refused_before_the_first_write(world: World) -> None:
    running(world)
    with world.unchanged():
        reply = world.call("ff_append_frame", APPEND_KEYS, frame_args()[:4])
    assert reply == [0, "invalid_input", "frame_type must be given, got: nil"]


@pytest.mark.parametrize("retention", NOT_WHOLE)
def test_a_bad_retention_appends_no_frame_that_a_retry_would_repeat(world: World, retention: str) -> None:
    running(world)
    with world.unchanged():
        status, code, detail = append(world, {RETENTION_MAXLEN: retention})
    assert [status, code] == [0, "invalid_input"]
    assert detail.startswith("retention_maxlen must be ")
    assert detail.endswith(f"got: {retention}")


@pytest.mark.parametrize(("retention", "left"), [("3", 3), ("0x3", 3), (" 1e1 ", 10), ("1", 1)])
def test_a_retention_keeps_exactly_the_newest_frames(world: World, retention: str, left: int) -> None:
    running(world)
    for number in range(12):
        reply = append(world, {PAYLOAD: str(number), RETENTION_MAXLEN: retention})
    assert reply[3] == "12"
    kept = [frame[5] for frame in world.value(FRAMES)]
    assert kept == [str(number) for number in range(12 - left, 12)]
    assert world.value(META)["retention_maxlen"] == str(left)


def test_without_a_retention_whole_nodes_beyond_ten_thousand_frames_go(world: World) -> None:
    running(world)
    pipe = world.redis.pipeline(transaction=False)
    for number in range(10_250):
        pipe.xadd(FRAMES, {"n": number})
    pipe.execute()
    append(world)
    assert world.redis.xlen(FRAMES) == 10_051


def test_a_description_with_unrelated_fields_only_is_not_completed(world: World) -> None:
    running(world)
    world.redis.hset(META, "note", "mine")
    assert append(world)[3] == "1"
    assert world.value(META).keys() == {"note", "frame_count", "total_bytes", "last_sequence", "last_frame_at"}


def test_damaged_counters_start_again_instead_of_stopping_the_stream(world: World) -> None:
    running(world)
    append(world)
    world.redis.hset(META, mapping={"frame_count": "many", "total_bytes": ""})
    assert append(world)[3] == "1"
    assert world.value(META)["total_bytes"] == "5"


def test_no_frame_is_announced(world: World) -> None:
    running(world)
    with nothing_published(world):
        append(world)
