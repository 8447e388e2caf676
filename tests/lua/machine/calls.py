"""What all steps share: the executions, calls with the keys that a caller builds, and the choice of who is next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests.lua import by_name
from tests.lua.executions import WORKER
from tests.lua.machine.invariants import Watch
from tests.lua.machine.life import Fence, Life
from tests.lua.world import Arg, World

MOST_LIVES = 4

# Which execution a step is for: a number, and whether it should be in a state in which the step succeeds.
Pick = tuple[int, bool]
PICK = st.tuples(st.integers(0, MOST_LIVES - 1), st.sampled_from([True, True, True, True, False]))
Act = Callable[[Any, Pick], None]
# How to get from one state into another ...
WAYS: dict[str, dict[str, Act]] = {
    "held": {"eligible": lambda lives, pick: lives.claim(pick, None, timeout=False)},
    "outdated": {"held": lambda lives, pick: lives.run_out(pick)},
    "expired": {"outdated": lambda lives, pick: lives.mark(pick)},
    "suspended": {"held": lambda lives, pick: lives.suspend(pick, 0, "", uses_pending=False)},
    "delayed": {"held": lambda lives, pick: lives.delay(pick, 0)},
    "budget": {"eligible": lambda lives, pick: lives.block(pick)},
    "terminal": {"held": lambda lives, pick: lives.complete(pick, 0)},
}
# ... and how what waits becomes eligible again.
BACK: dict[str, Act] = {
    "delayed": lambda lives, pick: lives.promote(pick),
    "suspended": lambda lives, pick: lives.resume(pick),
    "budget": lambda lives, pick: lives.unblock(pick),
    "dependencies": lambda lives, pick: lives.promote_blocked(pick),
    "terminal": lambda lives, pick: lives.replay(pick),
}


class Calls(RuleBasedStateMachine):
    """Some executions and one flow on a real server, and how they are called and chosen."""

    def __init__(self, world: World, seen: Counter[str]) -> None:
        super().__init__()
        self.world = world
        self.seen = seen
        self.ids = 0
        self.all: list[Life] = []
        self.edges: dict[str, tuple[Life, Life]] = {}
        self.watch = Watch(world)

    @invariant()
    def the_keyspace_is_as_the_model_says(self) -> None:
        self.watch.check(self.all)

    def call(self, function: str, life: Life, **args: Arg) -> Any:
        """Call a function for an execution, with the keys that a caller would build who has read its record."""
        return self.call_with({}, function, life, **args)

    def call_with(self, other_keys: dict[str, str], function: str, life: Life, **args: Arg) -> Any:
        waitpoint_id = str(args.get("waitpoint_id", life.waitpoint_id or "none"))
        edge_id = str(args.get("edge_id", "none"))
        keys = by_name.keys_of(life.keys, WORKER, max(life.attempts - 1, 0), waitpoint_id, edge_id) | other_keys
        known = {row.name for row in by_name.HEADERS[function].args}
        reply = by_name.call(
            self.world, function, keys, {"execution_id": life.keys.id} | args if "execution_id" in known else args
        )
        self.seen[f"{function} {reply[1]}"] += 1
        return reply

    def fence_of(self, life: Life, age: int) -> Fence:
        """Return the latest lease, or an older one, or one that never was."""
        return life.fences[-1 - age] if age < len(life.fences) else Fence("none", 0, "none", 0)

    def holds(self, function: str, life: Life, fence: Fence, *, marks: bool = True, **args: Arg) -> Any:
        """Make a holder's call; None when it is refused as predicted."""
        refusal = life.refusal(fence, marks=marks)
        known = {row.name for row in by_name.HEADERS[function].args}
        fenced: dict[str, Arg] = {
            "lease_id": fence.lease_id,
            "lease_epoch": fence.epoch,
            "attempt_id": fence.attempt_id,
            "attempt_index": fence.index,
        }
        args = {name: value for name, value in fenced.items() if name in known} | args
        reply = self.call(function, life, **args)
        if refusal is not None:
            assert reply == refusal
            return None
        assert reply[0] == 1, reply
        return reply

    def new_id(self) -> str:
        """Return an id that is the same whenever the same steps are taken."""
        self.ids += 1
        return f"{self.ids:08}-0000-4000-8000-000000000000"

    def one(self, pick: Pick, *states: str) -> Life:
        """Return an execution; one in these states if the pick says so, led there if there is none."""
        number, right = pick
        if right:
            self.lead(states[number % len(states)])
        fit = [life for life in self.all if life.state in states] if right else []
        chosen = fit or self.all
        return chosen[number % len(chosen)]

    def lead(self, state: str) -> None:
        """Bring an execution into a state, if there is a way: hypothesis leaves out some rules of each run."""
        if any(life.state == state for life in self.all):
            return
        ways = WAYS.get(state, BACK)
        if state in WAYS:
            self.lead(*ways)
        for position, life in enumerate(self.all):
            if life.state in ways:
                ways[life.state](self, (position, False))
                return
