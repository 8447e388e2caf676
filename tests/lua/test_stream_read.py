"""ff_read_attempt_stream: protocol 07, section 4."""

from __future__ import annotations

import pytest

from tests.lua.frames import FRAMES, META, PAYLOAD, append, read, running
from tests.lua.world import World


def test_reading_gives_frames_in_order_and_the_closing_marks(world: World) -> None:
    running(world)
    ids = [append(world, {PAYLOAD: str(number)})[2] for number in range(3)]
    status, word, entries, closed_at, closed_reason = read(world, "-", "+", "10")
    assert [status, word, closed_at, closed_reason] == [1, "OK", "", ""]
    assert [entry[0] for entry in entries] == ids
    assert entries[2][1][4:6] == ["payload", "2"]
    world.redis.hset(META, mapping={"closed_at": "1700", "closed_reason": "attempt_success"})
    assert read(world, "-", "+", "10")[3:] == ["1700", "attempt_success"]


@pytest.mark.parametrize(
    ("from_index", "to_index", "count", "expected"),
    [
        ("", "", "10", [0, 1, 2, 3]),
        ("{1}", "{2}", "10", [1, 2]),
        ("({1}", "({3}", "10", [2]),
        ("", "", "2", [0, 1]),
        ("", "", " 0x3 ", [0, 1, 2]),
        ("", "", "1e0", [0]),
        ("{3}", "{1}", "10", []),
    ],
)
def test_reading_takes_the_ranges_of_xrange(
    world: World, from_index: str, to_index: str, count: str, expected: list[int]
) -> None:
    running(world)
    ids = [append(world)[2] for _ in range(4)]
    with world.unchanged():
        reply = read(world, from_index.format(*ids) or "-", to_index.format(*ids) or "+", count)
    assert [entry[0] for entry in reply[2]] == [ids[index] for index in expected]


def test_a_stream_never_written_reads_as_open_and_empty(world: World) -> None:
    with world.unchanged():
        assert read(world, "-", "+", "10000") == [1, "OK", [], "", ""]


@pytest.mark.parametrize(
    ("count", "detail"),
    [
        ("", "count_limit must be >= 1"),
        ("all", "count_limit must be >= 1"),
        ("0", "count_limit must be >= 1"),
        ("0.5", "count_limit must be >= 1"),
        ("-inf", "count_limit must be >= 1"),
        ("10001", "count_limit_exceeds_hard_cap"),
        ("10000.5", "count_limit_exceeds_hard_cap"),
        ("inf", "count_limit_exceeds_hard_cap"),
        ("1.5", "count_limit must be an integer, got: 1.5"),
        ("nan", "count_limit must be an integer, got: nan"),
    ],
)
def test_count_limits_outside_of_one_to_ten_thousand_are_refused_before_the_ids_are_read(
    world: World, count: str, detail: str
) -> None:
    assert read(world, "bad", "bad", count) == [0, "invalid_input", detail]


@pytest.mark.parametrize("kept", range(3))
def test_an_absent_count_limit_is_refused(world: World, kept: int) -> None:
    assert read(world, *["-", "+"][:kept]) == [0, "invalid_input", "count_limit must be >= 1"]


@pytest.mark.parametrize("bad", ["", "x", "1-", "1-x", "(-", "(+", "1-2-3"])
def test_ids_that_xrange_does_not_take_are_refused_by_name(world: World, bad: str) -> None:
    running(world)
    append(world)
    refusal = "must be a stream entry id, got: " + bad
    assert read(world, bad, "+", "5") == [0, "invalid_input", f"from_id {refusal}"]
    assert read(world, "-", bad, "5") == [0, "invalid_input", f"to_id {refusal}"]


def test_a_key_of_another_type_is_an_error_and_no_refusal(world: World) -> None:
    world.redis.set(FRAMES, "text")
    with pytest.raises(Exception, match="WRONGTYPE"):
        read(world, "-", "+", "5")
