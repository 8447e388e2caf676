"""Random lives of executions on a real server: each reply is predicted, and the keyspace looked at after each call.

The server's clock cannot be moved, so a lease runs out because its stored end is moved into the past, as if time had
passed; delays and timeouts are passed over by calls that say it is later. CI runs a fixed set of lives;
``FFSUPER_LONG=1 pytest tests/lua/test_machine.py`` looks for new ones, many of them.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.lua.machine.ends import Ends
from tests.lua.machine.suspensions import Suspensions
from tests.lua.world import World


class Lives(Ends, Suspensions):
    """All that can happen to executions."""


def run(make: Any, short: int, long: int, steps: int) -> None:
    """Run a machine: the same lives each time, or with FFSUPER_LONG many new ones."""
    is_long = bool(os.environ.get("FFSUPER_LONG"))
    chosen = settings(
        max_examples=long if is_long else short,
        stateful_step_count=steps,
        derandomize=not is_long,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(make, settings=chosen)


EXPECTED = {
    *("begins initial", "begins retry", "begins replay", "begins resumed", "satisfied at once", "released"),
    *("skipped dependencies", "skipped eligible"),
    *("ff_reclaim_execution OK", "ff_reclaim_execution max_retries_exhausted", "ff_renew_lease stale_lease"),
    *("ff_complete_execution lease_expired", "ff_complete_execution lease_revoked", "stage cycle_detected"),
    *("ff_expire_suspension OK", "ff_replay_execution OK", "ff_deliver_signal OK", "ff_deliver_signal invalid_token"),
}


def test_random_lives_go_as_the_protocol_says(world: World) -> None:
    seen: Counter[str] = Counter()
    run(lambda: Lives(world, seen), short=150, long=4_000, steps=60)
    missing = EXPECTED - seen.keys()
    assert not missing, f"the lives were too dull: {missing} never happened"
