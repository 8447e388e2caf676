"""How executions end from outside, and begin again; and the flow that ties them together."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.lua import flows
from tests.lua.machine.begins import Beginnings
from tests.lua.machine.calls import PICK, Pick
from tests.lua.machine.leases import Leases
from tests.lua.machine.life import HELD, INDEX, OK, Life

MAX_REPLAYS = 10


class Ends(Beginnings, Leases):
    """Cancellation, expiry, replay, dependencies."""

    @rule(pick=PICK)
    def cancel(self, pick: Pick) -> None:
        life = self.one(pick, "suspended", "delayed", "budget", "dependencies")
        phase = life.phase
        worker = {"reason": "no", "source": "operator_override"}
        reply = self.call("ff_cancel_execution", life, **worker)
        if phase == "terminal":
            assert reply == life.not_active()
        else:
            assert reply == [*OK, "cancelled", phase]
            life.is_waitpoint_open &= phase != "suspended"
            life.end("cancelled")

    @rule(pick=PICK)
    def expire(self, pick: Pick) -> None:
        life = self.one(pick, "suspended", "held")
        phase = life.phase
        reply = self.call("ff_expire_execution", life, reason="execution_deadline")
        life.has_deadline = life.has_timeout = False
        if phase == "terminal":
            assert reply == [*OK, "already_terminal"]
        else:
            assert reply == [*OK, "expired", phase]
            life.end("expired")

    @rule(pick=PICK)
    def replay(self, pick: Pick) -> None:
        life = self.one(pick, "terminal")
        is_skipped = life.outcome == "skipped"
        edges = sorted(life.open_edges | life.impossible) if is_skipped else []
        keys = flows.replay_keys(life.keys, *edges)
        reply = self.world.call("ff_replay_execution", keys, [life.keys.id, "5", *edges])
        self.seen[f"ff_replay_execution {reply[1]}"] += 1
        if life.state != "terminal":
            assert reply == [0, "execution_not_terminal"]
        elif life.replays >= MAX_REPLAYS:
            assert reply == [0, "max_replays_exhausted"]
        else:
            if is_skipped:
                life.open_edges |= life.impossible
                life.impossible, life.open_count = set(), len(edges)
            assert reply == [*OK, str(len(edges))]
            life.state, life.interrupted = "dependencies" if is_skipped and life.open_edges else "eligible", False
            life.outcome, life.next_type = "none", "replay"
            life.replays += 1

    @rule(pick=PICK)
    def join_flow(self, pick: Pick) -> None:
        life = self.one(pick, "eligible", "terminal")
        reply = flows.add(self.world, life.keys)
        count = sum(one.in_flow for one in self.all)
        if life.in_flow:
            assert reply == [1, "ALREADY_SATISFIED", life.keys.id, str(count)]
        else:
            assert reply == [*OK, life.keys.id, str(count + 1)]
            life.in_flow = True

    @rule(above=PICK, below=PICK)
    def stage_and_apply(self, above: Pick, below: Pick) -> None:
        """Add an edge to the graph and, where the engine would, give it to the child."""
        upstream, downstream = self.one(above, *INDEX), self.one(below, "eligible", "held")
        for life, (_, right) in ((upstream, above), (downstream, below)):
            if right and not life.in_flow:
                self.join_flow((self.all.index(life), False))
        edge_id = self.new_id()
        reply = flows.stage(self.world, upstream.keys, downstream.keys, edge_id=edge_id)
        self.seen[f"stage {reply[1]}"] += 1
        if upstream is downstream:
            assert reply == [0, "self_referencing_edge"]
        elif not (upstream.in_flow and downstream.in_flow):
            assert reply == [0, "execution_not_in_flow"]
        elif self.leads(downstream, upstream):
            assert reply == [0, "cycle_detected"]
        else:
            assert reply[:3] == [*OK, edge_id]
            self.edges[edge_id] = (upstream, downstream)
            if downstream.state in ("eligible", "dependencies", *HELD):
                self.apply(edge_id, downstream)

    def apply(self, edge_id: str, child: Life) -> None:
        reply = flows.apply(self.world, child.keys, edge_id)
        child.open_edges.add(edge_id)
        child.open_count += 1
        assert reply == [*OK, str(child.open_count)]
        assert flows.apply(self.world, child.keys, edge_id) == [*OK, "already_applied"]
        if child.state == "eligible":
            child.state = "dependencies"
            # The record says what it waits for; what it was before (a retry, a replay) is kept.

    def leads(self, start: Life, goal: Life) -> bool:
        """Tell whether there is a way through the graph."""
        found = [start]
        for life in found:
            found += [below for above, below in self.edges.values() if above is life and below not in found]
        return goal in found

    @rule(number=st.integers(0, 9), outcome=st.sampled_from(["success", "failed"]))
    def resolve(self, number: int, outcome: str) -> None:
        """Tell a child how the upstream of an edge has ended, as its engine does in the states that skip cleanly."""
        if not any(life.open_edges for life in self.all):
            self.stage_and_apply((number, True), (number + 1, True))
        open_edges = sorted(
            (edge_id, position) for position, life in enumerate(self.all) for edge_id in life.open_edges
        )
        if not open_edges:
            return
        edge_id, position = open_edges[number % len(open_edges)]
        child = self.all[position]
        if outcome != "success" and child.state in ("held", "delayed"):
            self.come_back((position, False))
        if outcome != "success" and child.state not in ("eligible", "dependencies", "terminal"):
            return
        reply = flows.resolve(self.world, child.keys, edge_id, outcome)
        child.open_edges.discard(edge_id)
        child.open_count -= 1
        if outcome == "success":
            assert reply == [*OK, "satisfied", ""]
            if (child.open_count == 0 or not child.open_edges) and child.state == "dependencies":
                child.state = "eligible"
                self.seen["released"] += 1
        else:
            child.impossible.add(edge_id)
            assert reply == [*OK, "impossible", "" if child.state == "terminal" else "child_skipped"]
            if child.state != "terminal":
                self.seen[f"skipped {child.state}"] += 1
                child.end("skipped", keeps_deadline=True)
        assert flows.resolve(self.world, child.keys, edge_id, outcome) == [*OK, "already_resolved"]

    def come_back(self, pick: Pick) -> None:
        """Bring a child that runs, or waits for its retry, among the eligible ones, with its edges open."""
        if self.one(pick).state == "held":
            self.fail(pick, 0)
        if self.one(pick).state == "delayed":
            self.promote(pick)

    @rule(pick=PICK)
    def promote_blocked(self, pick: Pick) -> None:
        life = self.one(pick, "dependencies")
        reply = flows.promote_blocked(self.world, life.keys)
        if life.phase != "runnable":
            assert reply == [0, "not_runnable"]
        elif life.state != "dependencies":
            assert reply == [0, "not_blocked_by_deps"]
        elif life.open_count > 0 or life.open_edges:
            assert reply == [0, "deps_not_satisfied", str(life.open_count), str(len(life.open_edges))]
        else:
            assert reply == OK
            life.state = "eligible"
