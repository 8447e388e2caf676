"""What holds for every function: it is there, without flags, and an error reply leaves the keyspace as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ffsuper.store import libraries
from tests.lua.every_call import CALLS, before_call, is_success
from tests.lua.world import Arg, World, decoded

# All functions of library version 5: protocol 02 to 09.
FUNCTIONS = [
    "ff_version",
    "ff_renew_lease",
    "ff_mark_lease_expired_if_due",
    "ff_revoke_lease",
    "ff_create_execution",
    "ff_claim_execution",
    "ff_claim_resumed_execution",
    "ff_complete_execution",
    "ff_cancel_execution",
    "ff_fail_execution",
    "ff_delay_execution",
    "ff_move_to_waiting_children",
    "ff_reclaim_execution",
    "ff_expire_execution",
    "ff_issue_claim_grant",
    "ff_issue_reclaim_grant",
    "ff_change_priority",
    "ff_update_progress",
    "ff_promote_delayed",
    "ff_suspend_execution",
    "ff_resume_execution",
    "ff_create_pending_waitpoint",
    "ff_expire_suspension",
    "ff_close_waitpoint",
    "ff_deliver_signal",
    "ff_buffer_signal_for_pending_waitpoint",
    "ff_append_frame",
    "ff_read_attempt_stream",
    "ff_create_budget",
    "ff_report_usage_and_check",
    "ff_reset_budget",
    "ff_block_execution_for_admission",
    "ff_unblock_execution",
    "ff_create_quota_policy",
    "ff_check_admission_and_record",
    "ff_release_admission",
    "ff_create_flow",
    "ff_add_execution_to_flow",
    "ff_cancel_flow",
    "ff_stage_dependency_edge",
    "ff_apply_dependency_to_child",
    "ff_resolve_dependency",
    "ff_evaluate_flow_eligibility",
    "ff_promote_blocked_to_eligible",
    "ff_replay_execution",
]
# The refusals of protocol 04, section 1, that write: of those, the ones that wrong arguments lead to here.
WRITING_REFUSALS = {
    *(("ff_deliver_signal", code) for code in ("missing_token", "invalid_token")),
    *(("ff_buffer_signal_for_pending_waitpoint", code) for code in ("missing_token", "invalid_token")),
    ("ff_create_budget", "invalid_input"),
}
GARBAGE = ["", "garbage", "nan", "-1.5", "1e400"]
DIGEST = """
local parts, keys = {}, redis.call('KEYS', '*')
table.sort(keys)
for _, key in ipairs(keys) do
  parts[#parts + 1] = key
  parts[#parts + 1] = redis.call('DUMP', key)
  parts[#parts + 1] = redis.call('PEXPIRETIME', key)
end
return redis.sha1hex(table.concat(parts, '\\0'))
"""


def registered(world: World, library: str) -> dict[str, list[str]]:
    """Return the functions of a loaded library with their flags."""
    (found,) = decoded(world.command("FUNCTION", "LIST", "LIBRARYNAME", library))
    members = dict(zip(found[::2], found[1::2], strict=True))
    functions = [dict(zip(function[::2], function[1::2], strict=True)) for function in members["functions"]]
    return {function["name"]: list(function["flags"]) for function in functions}


def test_the_functions_of_the_protocol_are_registered_and_no_others(world: World) -> None:
    assert len(FUNCTIONS) == 45
    assert sorted(registered(world, libraries.FLOWFABRIC)) == sorted(FUNCTIONS)
    assert all(name.startswith("ffsuper_") for name in registered(world, libraries.FFSUPER))


@pytest.mark.parametrize("library", [libraries.FLOWFABRIC, libraries.FFSUPER])
def test_no_function_has_a_flag(world: World, library: str) -> None:
    assert {name: flags for name, flags in registered(world, library).items() if flags} == {}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_succeeds_when_it_is_called_as_it_should_be(world: World, function: str) -> None:
    assert CALLS.keys() == set(FUNCTIONS)
    keys, args = before_call(world, function)
    assert is_success(world.call(function, keys, args))


def wrong_calls(keys: list[str], args: list[Arg]) -> Iterator[tuple[list[str], list[Arg]]]:
    """Yield calls with too few keys, too few arguments, and each argument replaced by garbage."""
    for count in range(len(keys)):
        yield keys[:count], args
    for count in range(len(args)):
        yield keys, args[:count]
    for position in range(len(args)):
        for text in GARBAGE:
            yield keys, [*args[:position], text, *args[position + 1 :]]
    for text in GARBAGE:
        yield keys, [text] * len(args)


class Snapshot:
    """The whole keyspace at one time, to compare with and to go back to."""

    def __init__(self, world: World) -> None:
        self.redis = world.redis
        self.digest = world.command("EVAL", DIGEST, 0)
        self.dumps = [
            (key, world.redis.dump(key), world.expiries().get(decoded(key), 0)) for key in self.redis.keys()
        ]

    def try_call(self, function: str, keys: list[str], args: list[Arg]) -> tuple[Any, bool]:
        """Make a call; return its reply, or the error, and whether it changed anything, which is undone."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.execute_command("FCALL", function, len(keys), *keys, *args)  # type: ignore[no-untyped-call]
        pipe.execute_command("EVAL", DIGEST, 0)  # type: ignore[no-untyped-call]
        reply, digest = pipe.execute(raise_on_error=False)
        is_changed = digest != self.digest
        if is_changed:
            self.restore()
        return decoded(reply), is_changed

    def restore(self) -> None:
        pipe = self.redis.pipeline(transaction=False)
        pipe.flushall()
        for key, dump, expires_at in self.dumps:
            pipe.restore(key, expires_at, dump, absttl=True)
        pipe.execute()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_wrong_calls_that_are_answered_with_an_error_change_nothing(world: World, function: str) -> None:
    keys, args = before_call(world, function)
    snapshot = Snapshot(world)
    faults = []
    for wrong_keys, wrong_args in wrong_calls(keys, args):
        reply, is_changed = snapshot.try_call(function, wrong_keys, wrong_args)
        if is_success(reply) or not is_changed:
            continue
        if isinstance(reply, redis.ResponseError) or (function, reply[1]) not in WRITING_REFUSALS:
            faults.append((len(wrong_keys), wrong_args, reply))
    assert faults == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_wrong_arguments_are_refused_and_never_end_in_a_script_error(world: World, function: str) -> None:
    keys, args = before_call(world, function)
    snapshot = Snapshot(world)
    wrong = [wrong_args for wrong_keys, wrong_args in wrong_calls(keys, args) if wrong_keys == keys]
    replies = [(wrong_args, snapshot.try_call(function, keys, wrong_args)[0]) for wrong_args in wrong]
    assert [found for found in replies if isinstance(found[1], Exception)] == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_call_with_nothing_leaves_an_empty_keyspace_empty(world: World, function: str) -> None:
    Snapshot(world).try_call(function, [], [])
    assert world.redis.dbsize() == 0
