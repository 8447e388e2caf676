"""Random use of one budget and one quota on a real server, each reply predicted by plain arithmetic."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.lua import budgets, test_quota
from tests.lua.machine.life import OK
from tests.lua.test_machine import run
from tests.lua.world import World

HARD, SOFT = {"tok": 20, "usd": 0}, {"tok": 12, "usd": 5}  # 0: no limit
WINDOW_MS, RATE, CAP = 1_000_000, 4, 3
EXECUTIONS = [f"{{fp:7}}:00000000-0000-0000-0000-00000000000{number}" for number in range(7)]


class Limits(RuleBasedStateMachine):
    """A budget with two dimensions; a quota with a rate and a cap, whose time moves on with every admission.

    The guard of an admission runs on the server's clock, so within a test it lasts until the release.
    """

    def __init__(self, world: World, seen: Counter[str]) -> None:
        super().__init__()
        self.world = world
        self.seen = seen
        self.usage = {"tok": 0, "usd": 0}
        self.reported: set[str] = set()
        self.breaches = {"breach_count": 0, "soft_breach_count": 0, "reset_count": 0}
        self.now_ms = test_quota.NOW
        self.window: dict[str, int] = {}
        self.guarded: set[str] = set()
        self.admitted: set[str] = set()
        self.concurrency = 0

    @initialize()
    def create(self) -> None:
        self.world.redis.flushall()
        limits = {name: (str(HARD[name]), str(SOFT[name])) for name in HARD}
        assert budgets.create(self.world, limits, interval="60000")[:2] == OK
        assert budgets.create(self.world, limits)[:2] == [1, "ALREADY_SATISFIED"]
        created = test_quota.create(self.world, test_quota.ID, WINDOW_MS // 1000, RATE, CAP, self.now_ms)
        assert created == [*OK, test_quota.ID]

    @rule(tok=st.integers(0, 9), usd=st.integers(-2, 3), key=st.sampled_from(["", "", "", "a", "b"]))
    def report(self, tok: int, usd: int, key: str) -> None:
        """Report two dimensions; a hard limit stops both, and a negative delta gives back."""
        usd = max(usd, -self.usage["usd"])
        report_key = f"ff:usagededup:{{b:0}}:{key}" if key else ""
        reply = budgets.report(self.world, ("tok", str(tok)), ("usd", str(usd)), key=report_key)
        self.seen[f"report {reply[1]}"] += 1
        if key in self.reported:
            assert reply == [1, "ALREADY_APPLIED"]
        elif self.usage["tok"] + tok > HARD["tok"]:
            assert reply == [1, "HARD_BREACH", "tok", str(self.usage["tok"]), str(HARD["tok"])]
            self.breaches["breach_count"] += 1
        else:
            self.usage = {"tok": self.usage["tok"] + tok, "usd": self.usage["usd"] + usd}
            self.reported |= {key} - {""}
            over = [name for name in SOFT if self.usage[name] > SOFT[name]]
            self.breaches["soft_breach_count"] += bool(over)
            if over:
                assert reply == [1, "SOFT_BREACH", over[0], str(self.usage[over[0]]), str(SOFT[over[0]])]
            else:
                assert reply == OK

    @rule()
    def reset(self) -> None:
        assert budgets.reset(self.world, budgets.ID, "5") == [*OK, "60005"]
        self.usage = dict.fromkeys(self.usage, 0)
        self.breaches["reset_count"] += 1

    @rule(execution=st.sampled_from(EXECUTIONS), step_ms=st.sampled_from([0, 0, 0, WINDOW_MS // 3, WINDOW_MS]))
    def admit(self, execution: str, step_ms: int) -> None:
        self.now_ms += step_ms
        window = str(WINDOW_MS // 1000)
        reply = test_quota.check(self.world, execution, now=self.now_ms, window=window, rate=str(RATE), cap=str(CAP))
        self.seen[f"admit {reply[0]}"] += 1
        if execution in self.guarded:
            assert reply == ["ALREADY_ADMITTED"]
            return
        self.window = {one: at_ms for one, at_ms in self.window.items() if at_ms > self.now_ms - WINDOW_MS}
        if len(self.window) >= RATE:
            wait_ms = min(self.window.values()) + WINDOW_MS - self.now_ms
            assert reply == ["RATE_EXCEEDED", str(wait_ms)]
        elif self.concurrency >= CAP:
            assert reply == ["CONCURRENCY_EXCEEDED"]
        else:
            assert reply == ["ADMITTED"]
            self.window[execution] = self.now_ms
            self.guarded.add(execution)
            self.admitted.add(execution)
            self.concurrency += 1

    @rule(execution=st.sampled_from(EXECUTIONS))
    def release(self, execution: str) -> None:
        """Release, whether it was admitted or not: the count then falls all the same, but never below 0."""
        assert test_quota.release(self.world, execution) == [*OK, "released"]
        self.guarded.discard(execution)
        self.admitted.discard(execution)
        self.concurrency = max(self.concurrency - 1, 0)

    @invariant()
    def the_counters_are_the_models_and_never_negative(self) -> None:
        usage = self.world.value(budgets.USAGE) or {}
        assert {name: int(usage.get(name, 0)) for name in self.usage} == self.usage
        definition = self.world.value(budgets.BUDGET)
        assert {name: int(definition.get(name, 0)) for name in self.breaches} == self.breaches
        assert int(self.world.value(test_quota.CONCURRENCY)) == self.concurrency
        assert (self.world.value(test_quota.ADMITTED) or set()) == self.admitted
        assert min(*self.usage.values(), self.concurrency) >= 0


def test_random_use_of_a_budget_and_a_quota_adds_up(world: World) -> None:
    seen: Counter[str] = Counter()
    run(lambda: Limits(world, seen), short=60, long=2_000, steps=50)
    reports = {f"report {word}" for word in ("OK", "SOFT_BREACH", "HARD_BREACH", "ALREADY_APPLIED")}
    admissions = {"ADMITTED", "ALREADY_ADMITTED", "RATE_EXCEEDED", "CONCURRENCY_EXCEEDED"}
    missing = (reports | {f"admit {word}" for word in admissions}) - seen.keys()
    assert not missing, f"too dull: {missing} never happened"
