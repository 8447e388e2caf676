"""Resume conditions: protocol 03 section 8 and 06 section 4."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lua.signals import buffer, deliver
from tests.lua.suspensions import (
    KEYS,
    UNSET,
    WAITPOINT,
    WAITPOINT_2,
    field,
    put,
    put_active,
    put_pending,
    put_suspended,
    suspend,
)
from tests.lua.world import World

CONDITION = KEYS.waitpoint(WAITPOINT, "condition")


def stored(world: World, text: str) -> dict[str, str]:
    """Suspend with this condition; return its record without the time."""
    put_active(world)
    assert suspend(world, resume_condition_json=text)[:2] == [1, "OK"]
    record: dict[str, str] = world.value(CONDITION)
    assert record.pop("updated_at") == field(world, KEYS.core, "last_mutation_at")
    return record


def matcher(n: int, name: str) -> dict[str, str]:
    return {f"matcher:{n}:name": name, f"matcher:{n}:satisfied": "0", f"matcher:{n}:signal_id": ""}


DEFAULTS = {
    "condition_type": "signal_set",
    "match_mode": "any",
    "minimum_signal_count": "1",
    "total_matchers": "1",
    "satisfied_count": "0",
    "closed": "0",
}
WILDCARD = {**DEFAULTS, **matcher(0, "")}


def test_a_condition_is_stored_with_one_matcher_for_each_name(world: World) -> None:
    text = json.dumps(
        {
            "condition_type": "quorum",
            "signal_match_mode": "all",
            "minimum_signal_count": 2,
            "required_signal_names": ["a", "", "a"],
            "timeout_behavior": "ignored",
        }
    )
    assert stored(world, text) == {
        "condition_type": "quorum",
        "match_mode": "all",
        "minimum_signal_count": "2",
        "total_matchers": "3",
        "satisfied_count": "0",
        "closed": "0",
        **matcher(0, "a"),
        **matcher(1, ""),
        **matcher(2, "a"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '"text"',
        '""',
        "[]",
        '["a"]',
        '{"required_signal_names":[]}',
        '{"required_signal_names":{}}',
        '{"required_signal_names":{"1":"a"}}',
        '{"required_signal_names":false}',
        '{"required_signal_names":""}',
        '{"condition_type":false,"signal_match_mode":false,"minimum_signal_count":false}',
    ],
)
def test_a_condition_that_names_nothing_takes_any_signal(world: World, text: str) -> None:
    assert stored(world, text) == WILDCARD


@pytest.mark.parametrize(
    ("minimum", "text"),
    [
        ("3", "3"),
        ('"3"', "3"),
        ("2.5", "2.5"),
        ("1e20", "1e+20"),
        ("0", "0"),
        ('" 0x10 "', "16"),
        ("null", "nil"),
        ("true", "nil"),
        ('"three"', "nil"),
        ("[]", "nil"),
        ("{}", "nil"),
    ],
)
def test_the_minimum_is_stored_as_number_text(world: World, minimum: str, text: str) -> None:
    assert stored(world, f'{{"minimum_signal_count":{minimum}}}') == {**WILDCARD, "minimum_signal_count": text}


def test_numbers_are_stored_as_redis_writes_them(world: World) -> None:
    text = '{"condition_type":7,"signal_match_mode":0.5,"required_signal_names":[5,1.1]}'
    record = stored(world, text)
    assert (record["condition_type"], record["match_mode"]) == ("7", "0.5")
    assert (record["matcher:0:name"], record["matcher:1:name"]) == ("5", world.printed("1.1"))


def test_a_number_as_name_matches_a_live_signal_but_no_buffered_one(world: World) -> None:
    put_active(world)
    token = put_pending(world)
    assert buffer(world, token, signal_name="5")[:2] == [1, "OK"]
    condition = '{"required_signal_names":[5]}'
    assert suspend(world, use_pending_waitpoint="1", resume_condition_json=condition)[1] == "OK"
    assert field(world, CONDITION, "satisfied_count") == "0"
    assert deliver(world, token, signal_id="s2", signal_name="5")[2] == "s2"
    assert field(world, CONDITION, "satisfied_count") == "1"


BAD = [
    ("", "be a JSON object"),
    ("{", "be a JSON object"),
    ("{} x", "be a JSON object"),
    ("5", "be a JSON object"),
    ("true", "be a JSON object"),
    ("false", "be a JSON object"),
    ("null", "be a JSON object"),
    ("[" * 2000 + "]" * 2000, "be a JSON object"),
    ('{"required_signal_names":null}', "have a list as required_signal_names"),
    ('{"required_signal_names":"a"}', "have a list as required_signal_names"),
    ('{"required_signal_names":1}', "have a list as required_signal_names"),
    ('{"required_signal_names":true}', "have a list as required_signal_names"),
    ('{"required_signal_names":["a",null]}', "have texts in required_signal_names"),
    ('{"required_signal_names":["a",true]}', "have texts in required_signal_names"),
    ('{"required_signal_names":[["a"]]}', "have texts in required_signal_names"),
    ('{"required_signal_names":[{}]}', "have texts in required_signal_names"),
    ('{"condition_type":null}', "have a text as condition_type"),
    ('{"condition_type":true}', "have a text as condition_type"),
    ('{"condition_type":[]}', "have a text as condition_type"),
    ('{"signal_match_mode":null}', "have a text as signal_match_mode"),
    ('{"signal_match_mode":true}', "have a text as signal_match_mode"),
    (json.dumps({"required_signal_names": ["a"] * 1331}), "name at most 1330 signals"),
]


@pytest.mark.parametrize(("text", "what"), BAD)
@pytest.mark.parametrize("pending", ["", "1"])
def test_an_unusable_condition_is_refused_before_anything_is_written(
    world: World, text: str, what: str, pending: str
) -> None:
    put_active(world)
    put_pending(world)
    waitpoint_id = WAITPOINT if pending else WAITPOINT_2
    with world.unchanged():
        reply = suspend(
            world,
            waitpoint_id=waitpoint_id,
            use_pending_waitpoint=pending,
            resume_condition_json=text,
            timeout_at="x",
        )
    assert reply == [0, "invalid_input", f"resume_condition_json must {what}, got: {text}"]


def test_an_absent_condition_is_refused_by_its_name(world: World) -> None:
    put_active(world)
    with world.unchanged():
        reply = suspend(world, resume_condition_json=UNSET)
    assert reply == [0, "invalid_input", "resume_condition_json must be given, got: nil"]


def test_the_longest_condition_is_stored_whole(world: World) -> None:
    names = [f"n{n}" for n in range(1330)]
    record = stored(world, json.dumps({"required_signal_names": names}))
    assert record["total_matchers"] == "1330"
    assert [record[f"matcher:{n}:name"] for n in range(1330)] == names


def test_fields_of_an_earlier_condition_of_the_same_waitpoint_stay_behind(world: World) -> None:
    put(world, CONDITION, closed="1", closed_reason="satisfied", **{"matcher:5:name": "old"})
    assert stored(world, "{}") == {**WILDCARD, "closed_reason": "satisfied", "matcher:5:name": "old"}


def effects(world: World, condition: dict[str, Any], names: list[str]) -> list[str]:
    """Suspend with the condition, deliver signals of these names; return their effects."""
    token = put_suspended(world, condition)
    return [deliver(world, token, signal_id=f"s{n}", signal_name=name)[-1] for n, name in enumerate(names)]


NO, MORE, DONE = "no_op", "appended_to_waitpoint", "resume_condition_satisfied"
LATE = "target_not_signalable"


@pytest.mark.parametrize(
    ("condition", "names", "expected"),
    [
        ({}, ["x", "y"], [DONE, LATE]),
        ({"minimum_signal_count": 0}, ["x"], [DONE]),
        ({"minimum_signal_count": 3}, ["x", "y"], [MORE, NO]),
        ({"required_signal_names": ["a"]}, ["b", "", "a"], [NO, NO, DONE]),
        ({"required_signal_names": ["a"], "minimum_signal_count": 0}, ["b", "a"], [NO, DONE]),
        ({"required_signal_names": ["a", "b"]}, ["b"], [DONE]),
        ({"required_signal_names": ["a", "b"], "minimum_signal_count": 2}, ["b", "b", "a"], [MORE, NO, DONE]),
        ({"required_signal_names": ["a", "b"], "minimum_signal_count": 1.5}, ["a", "b"], [MORE, DONE]),
        ({"required_signal_names": ["a", "b"], "minimum_signal_count": 3}, ["a", "b", "a"], [MORE, MORE, NO]),
        ({"required_signal_names": ["a", "a"], "signal_match_mode": "all"}, ["a", "a"], [MORE, DONE]),
        ({"required_signal_names": ["", "a"], "signal_match_mode": "all"}, ["a", "b", "a"], [MORE, NO, DONE]),
        ({"required_signal_names": ["a", "b"], "signal_match_mode": "all", "minimum_signal_count": 1}, ["a"], [MORE]),
        (
            {"required_signal_names": ["a", "b"], "signal_match_mode": "count", "minimum_signal_count": 2},
            ["a", "b"],
            [MORE, DONE],
        ),
        ({"required_signal_names": ["a"], "signal_match_mode": "all", "minimum_signal_count": None}, ["a"], [DONE]),
    ],
)
def test_a_signal_satisfies_the_first_open_matcher_that_takes_it(
    world: World, condition: dict[str, Any], names: list[str], expected: list[str]
) -> None:
    assert effects(world, condition, names) == expected


@pytest.mark.parametrize("minimum", [None, "three", True])
def test_a_minimum_that_is_no_number_is_satisfied_by_one_signal_instead_of_wedging_the_execution(
    world: World, minimum: Any
) -> None:
    assert effects(world, {"minimum_signal_count": minimum}, ["x"]) == [DONE]
    assert field(world, KEYS.core, "lifecycle_phase") == "runnable"


@pytest.mark.parametrize("damage", [{"total_matchers": "1e9"}, {"total_matchers": "inf"}, {"total_matchers": "many"}])
def test_a_damaged_number_of_matchers_ends_no_delivery_half_way(world: World, damage: dict[str, str]) -> None:
    token = put_suspended(world, {"required_signal_names": ["a", "b"]})
    put(world, CONDITION, **damage)
    assert deliver(world, token, signal_name="c") == [1, "OK", "signal-1", NO]
