"""The library as a whole: exactly the protocol's functions, and all of them within one slot of a cluster."""

from __future__ import annotations

import pytest

from tests.lua.world import Arg, World

PROTOCOL = """
ff_version
ff_create_execution ff_claim_execution ff_complete_execution ff_cancel_execution ff_delay_execution
ff_move_to_waiting_children ff_fail_execution ff_reclaim_execution ff_expire_execution
ff_renew_lease ff_mark_lease_expired_if_due ff_revoke_lease
ff_issue_claim_grant ff_change_priority ff_update_progress ff_promote_delayed ff_issue_reclaim_grant
ff_suspend_execution ff_resume_execution ff_create_pending_waitpoint ff_close_waitpoint ff_expire_suspension
ff_deliver_signal ff_buffer_signal_for_pending_waitpoint ff_claim_resumed_execution
ff_append_frame ff_read_attempt_stream
ff_create_budget ff_report_usage_and_check ff_reset_budget ff_block_execution_for_admission ff_unblock_execution
ff_create_quota_policy ff_check_admission_and_record ff_release_admission
ff_create_flow ff_add_execution_to_flow ff_cancel_flow ff_stage_dependency_edge ff_apply_dependency_to_child
ff_resolve_dependency ff_evaluate_flow_eligibility ff_promote_blocked_to_eligible ff_replay_execution
""".split()  # noqa: SIM905 -- forty-five names read better as text
# The protocol indexes a budget before it looks at anything else.
WRITES_BEFORE_IT_REFUSES = {"ff_create_budget": {"k4": {""}}}


def functions(world: World, library: str) -> dict[str, list[str]]:
    """Return the flags of each function of a library, by name."""
    ((*members,),) = world.command("FUNCTION", "LIST", "LIBRARYNAME", library)
    listed = dict(zip(members[::2], members[1::2], strict=True))[b"functions"]
    found = [dict(zip(one[::2], one[1::2], strict=True)) for one in listed]
    return {one[b"name"].decode(): list(one[b"flags"]) for one in found}


def test_the_library_has_exactly_the_protocols_functions_without_flags(world: World) -> None:
    found = functions(world, "flowfabric")
    assert (sorted(found), len(found)) == (sorted(PROTOCOL), 45)
    assert not any(found.values())


def test_our_own_library_keeps_to_its_own_names(world: World) -> None:
    assert all(name.startswith("ffsuper_") for name in functions(world, "ffsuper"))


@pytest.mark.parametrize("name", [name for name in PROTOCOL if name != "ff_version"])
@pytest.mark.parametrize("args", [[], [""] * 20, ["nan"] * 20, ["-1e309"] * 20], ids=["none", "empty", "nan", "-inf"])
def test_nonsense_is_refused_or_answered_and_never_stops_half_way(world: World, name: str, args: list[Arg]) -> None:
    keys = [f"k{number}" for number in range(21)]
    with world.changes() as changes:
        reply = world.try_call(name, keys, args)
    if isinstance(reply, str) or reply[0] == 0:
        allowed = WRITES_BEFORE_IT_REFUSES.get(name, {}) if args and args[0] == "" else {}
        assert changes.written == allowed, f"{name} answered {reply} and wrote {changes.written}"
