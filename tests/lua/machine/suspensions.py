"""Suspensions, the signals that end them, and their timeouts."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.lua.machine.calls import PICK, Calls, Pick
from tests.lua.machine.life import HELD, OK, Life
from tests.lua.suspensions import FAR_MS
from tests.lua.world import Arg

BEHAVIORS = {
    "fail": "failed",
    "cancel": "cancelled",
    "expire": "expired",
    "auto_resume": "waiting",
    "escalate": "suspended",
}
SIGNALS = ("a", "b")


class Suspensions(Calls):
    """Waitpoints new and handed out beforehand, signals, operators, timeouts."""

    @rule(
        pick=PICK,
        age=st.sampled_from([0, 0, 0, 1]),
        behavior=st.sampled_from(["", *BEHAVIORS]),
        uses_pending=st.booleans(),
    )
    def suspend(self, pick: Pick, age: int, behavior: str, uses_pending: bool) -> None:
        """Wait for signal ``a``; with a behaviour, until a time that is past already."""
        life = self.one(pick, "held")
        activates = uses_pending and life.pending_id != ""
        waitpoint_id = life.pending_id if activates else self.new_id()
        condition = json.dumps({"required_signal_names": ["a"]})
        reply = (
            self.holds(
                "ff_suspend_execution",
                life,
                self.fence_of(life, age),
                suspension_id=self.new_id(),
                waitpoint_id=waitpoint_id,
                waitpoint_key="key",
                reason_code="waiting_for_signal",
                requested_by="worker",
                timeout_at=5 if behavior else "",
                timeout_behavior=behavior or "fail",
                resume_condition_json=condition,
                resume_policy_json="{}",
                use_pending_waitpoint="1" if activates else "",
                lease_history_maxlen=1000,
            )
            if not activates or life.pending_attempt == self.fence_of(life, age).index
            else None
        )
        if reply is None:
            return
        satisfied = activates and "a" in life.buffered
        assert reply[1] == ("ALREADY_SATISFIED" if satisfied else "OK")
        life.waitpoint_id, life.token = reply[3], reply[5]
        if activates:
            life.pending_id, life.buffered = "", []
        life.is_waitpoint_open = not satisfied
        if satisfied:
            self.seen["satisfied at once"] += 1
            return
        life.release("suspended", interrupted=True)
        self.watch.behavior[life.keys.id] = behavior

    @rule(pick=PICK)
    def create_pending(self, pick: Pick) -> None:
        life = self.one(pick, "held")
        fence, waitpoint_id = self.fence_of(life, 0), self.new_id()
        reply = (
            self.call(
                "ff_create_pending_waitpoint",
                life,
                attempt_index=fence.index,
                waitpoint_id=waitpoint_id,
                waitpoint_key="key",
                expires_at=FAR_MS,
            )
            if not life.pending_id
            else None
        )
        if reply is None:
            return
        if life.state in ("held", "outdated"):
            assert reply[:4] == [*OK, waitpoint_id, "key"]
            life.pending_id, life.pending_attempt, life.buffered = waitpoint_id, fence.index, []
            life.pending_token = reply[4]
        else:
            assert reply == ([0, "no_active_lease"] if life.state in HELD else life.not_active())

    @rule(pick=PICK, name=st.sampled_from(SIGNALS))
    def buffer(self, pick: Pick, name: str) -> None:
        life = self.one(pick, "held")
        if life.pending_id:
            reply = self.signal(
                "ff_buffer_signal_for_pending_waitpoint", life, life.pending_id, life.pending_token, name
            )
            assert reply[2:] == [reply[2], "buffered_for_pending_waitpoint"]
            life.buffered.append(name)

    @rule(pick=PICK, name=st.sampled_from(SIGNALS))
    def suspend_on_pending(self, pick: Pick, name: str) -> None:
        """Hand a waitpoint out, get a signal there, and only then wait for one."""
        held = self.one(pick, "held")
        position = (self.all.index(held), False)
        self.create_pending(position)
        self.buffer(position, name)
        self.suspend(position, 0, "", uses_pending=True)

    @rule(pick=PICK, name=st.sampled_from(SIGNALS), forged=st.sampled_from([False, False, True]))
    def deliver(self, pick: Pick, name: str, forged: bool) -> None:
        life = self.one(pick, "suspended")
        if not life.waitpoint_id:
            return
        token = f"k1:{'0' * 40}" if forged else life.token
        reply = self.signal("ff_deliver_signal", life, life.waitpoint_id, token, name)
        if forged:
            assert reply == [0, "invalid_token"]
        elif life.state == "terminal" or (life.state != "suspended" and not life.is_waitpoint_open):
            assert reply == [0, "target_not_signalable"]
        elif name == "b":
            assert reply[3] == "no_op"
        else:
            assert reply[3] == "resume_condition_satisfied"
            life.is_waitpoint_open = False
            life.state = "eligible" if life.state == "suspended" else life.state

    def signal(self, function: str, life: Life, waitpoint_id: str, token: str, name: str) -> Any:
        signal_id = self.new_id()
        keys = {"signal": life.keys.signal(signal_id), "signal_payload": life.keys.signal(signal_id, "payload")}
        limits: dict[str, Arg] = {"signal_maxlen": 1000, "max_signals_per_execution": 10_000}
        ids: dict[str, Arg] = {"signal_id": signal_id, "waitpoint_id": waitpoint_id, "signal_name": name}
        return self.call_with(keys, function, life, **ids, **limits, waitpoint_token=token, resume_delay_ms=0)

    @rule(pick=PICK)
    def resume(self, pick: Pick) -> None:
        life = self.one(pick, "suspended")
        reply = self.call("ff_resume_execution", life, trigger_type="operator", resume_delay_ms=0)
        if life.state == "suspended":
            assert reply == [*OK, "waiting"]
            life.state, life.is_waitpoint_open = "eligible", False
        else:
            assert reply == [0, "execution_not_suspended"]

    @rule(pick=PICK)
    def time_out(self, pick: Pick) -> None:
        life = self.one(pick, "suspended")
        reply = self.call("ff_expire_suspension", life)
        behavior = self.watch.behavior.get(life.keys.id, "")
        if life.state != "suspended":
            assert reply == [*OK, "not_suspended_cleaned"]
        elif not behavior:
            assert reply[:2] == OK
            assert reply[2] == "not_yet_due"
        else:
            assert reply == [*OK, behavior, BEHAVIORS[behavior]]
            self.watch.behavior[life.keys.id] = ""
            life.is_waitpoint_open = behavior == "escalate"
            if behavior == "auto_resume":
                life.state = "eligible"
            elif behavior != "escalate":
                life.end(BEHAVIORS[behavior], keeps_deadline=True)
