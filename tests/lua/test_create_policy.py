"""ff_create_execution: what it reads of the policy, protocol 02, section 6.1, and 01, section 3."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lua.executions import call_create, create, new_keys
from tests.lua.world import World


def requiring(tokens: Any) -> str:
    """Return a policy with this as its required capabilities."""
    return json.dumps({"routing_requirements": {"required_capabilities": tokens}}, ensure_ascii=False)


def tokens_of_size(total_bytes: int) -> list[str]:
    """Return two tokens whose list is so long."""
    return ["a" * 100, "b" * (total_bytes - 101)]


@pytest.mark.parametrize(
    ("tokens", "stored"),
    [
        (["gpu"], "gpu"),
        (["zz", "a", "B", "東京-gpu"], "B,a,zz,東京-gpu"),
        (["b", "a", "b"], "a,b,b"),
        ([f"t{number:03}" for number in range(256)], ",".join(f"t{number:03}" for number in range(256))),
        (tokens_of_size(4096), ",".join(tokens_of_size(4096))),
    ],
)
def test_required_capabilities_are_sorted_into_the_record(world: World, tokens: list[str], stored: str) -> None:
    policy = requiring(tokens)
    keys = create(world, policy=policy)
    assert world.redis.hget(keys.core, "required_capabilities") == stored.encode()
    assert len(world.value(keys.core)) == 50
    assert world.redis.get(keys.part("policy")) == policy.encode()


@pytest.mark.parametrize(
    "policy",
    [
        "{}",
        "{ }",
        "[]",
        "5",
        '"text"',
        "null",
        "true",
        '{"max_reclaim_count":3}',
        '{"routing_requirements":{}}',
        '{"routing_requirements":[]}',
        '{"routing_requirements":["gpu"]}',
        requiring([]),
        requiring({}),
        requiring({"gpu": True}),
    ],
)
def test_a_policy_without_required_capabilities_is_stored_as_it_is(world: World, policy: str) -> None:
    keys = create(world, policy=policy)
    assert world.value(keys.part("policy")) == policy
    assert len(world.value(keys.core)) == 49


def test_null_requirements_count_as_none_where_the_reference_refuses_its_own_clients_policy(world: World) -> None:
    policy = '{"routing_requirements":null}'
    keys = create(world, policy=policy)
    assert world.value(keys.part("policy")) == policy
    assert len(world.value(keys.core)) == 49


@pytest.mark.parametrize(
    ("policy", "refusal"),
    [
        ("{", ["invalid_policy_json", "malformed"]),
        ("{}x", ["invalid_policy_json", "malformed"]),
        (" ", ["invalid_policy_json", "malformed"]),
        *(
            (f'{{"routing_requirements":{value}}}', ["invalid_policy_json", "routing_requirements:not_object"])
            for value in ('"gpu"', "5", "true", "false")
        ),
        *(
            (requiring(value), ["invalid_capabilities", "required:not_array"])
            for value in ("gpu", 5, True, False, None)
        ),
        *(
            (requiring(tokens), ["invalid_capabilities", f"required:{detail}"])
            for tokens, detail in [
                ([5], "non_string_token"),
                ([None], "non_string_token"),
                ([["gpu"]], "non_string_token"),
                ([""], "empty_token"),
                (["a,b"], "comma_in_token"),
                (["a b"], "control_or_whitespace"),
                (["a\0"], "control_or_whitespace"),
                (["\n"], "control_or_whitespace"),
                (["a\x7f"], "control_or_whitespace"),
                ([f"t{number}" for number in range(257)], "too_many_tokens"),
                (["same"] * 257, "too_many_tokens"),
                (tokens_of_size(4097), "too_many_bytes"),
                # The first failing token decides, and in a token the first failing check.
                (["", 5], "empty_token"),
                ([5, ""], "non_string_token"),
                (["a, b"], "comma_in_token"),
                (["ok", "a b", "a,b"], "control_or_whitespace"),
                ([*("x" * 40 for _ in range(256)), " "], "control_or_whitespace"),
                (["x" * 40 for _ in range(257)], "too_many_tokens"),
            ]
        ),
    ],
)
def test_a_bad_policy_is_refused(world: World, policy: str, refusal: list[str]) -> None:
    with world.unchanged():
        # The arguments are looked at after the policy.
        reply = call_create(world, new_keys(), policy=policy, delay_until="x", execution_deadline="x")
    assert reply == [0, *refusal]


BUDGETS = ["550e8400-e29b-41d4-a716-446655440000", "6ba7b8109dad11d180b400c04fd430c8"]


def test_the_limits_that_a_policy_names_are_in_the_record(world: World) -> None:
    keys = create(world, policy=json.dumps({"budget_ids": BUDGETS, "quota_policy_id": BUDGETS[0]}))
    record = world.value(keys.core)
    assert (record["budget_ids"], record["quota_policy_id"]) == (",".join(BUDGETS), BUDGETS[0])


@pytest.mark.parametrize("policy", ['{"budget_ids":[]}', '{"budget_ids":null,"quota_policy_id":null}', "{}", "[]"])
def test_a_policy_without_limits_leaves_none(world: World, policy: str) -> None:
    record = world.value(create(world, policy=policy).core)
    assert not {"budget_ids", "quota_policy_id"} & record.keys()


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"budget_ids": "x"}, "budget_ids:not_array"),
        ({"budget_ids": 5}, "budget_ids:not_array"),
        ({"budget_ids": [5]}, "budget_ids:not_a_uuid"),
        ({"budget_ids": [None]}, "budget_ids:not_a_uuid"),
        ({"budget_ids": ["a,b"]}, "budget_ids:not_a_uuid"),
        ({"budget_ids": [BUDGETS[0][:-1]]}, "budget_ids:not_a_uuid"),
        ({"budget_ids": BUDGETS[:1] * 101}, "budget_ids:too_many"),
        ({"quota_policy_id": "x"}, "quota_policy_id:not_a_uuid"),
        ({"quota_policy_id": [BUDGETS[0]]}, "quota_policy_id:not_a_uuid"),
    ],
)
def test_limits_that_are_none_are_refused_before_anything_is_written(world: World, policy: Any, why: str) -> None:
    with world.changes() as c:
        assert call_create(world, new_keys(), policy=json.dumps(policy))[:3] == [0, "invalid_policy_json", why]
    assert c.written == {}
