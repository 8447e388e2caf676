"""The bounded run: every kind of fault at least once. Longer ones by hand: ``python -m tests.chaos --help``."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import trio

from tests.chaos.checks import judge
from tests.chaos.plan import KINDS, make_plan
from tests.chaos.report import figures, table
from tests.chaos.run import kinds_here, run

SEED = int(os.environ.get("FFSUPER_CHAOS_SEED", "1"))
SECONDS = 54.0
# Faults that there may be nobody for at their moment.
WITHOUT_VICTIM = {
    *("child killed", "child stopped", "fork server killed", "fork server stopped"),
    "supervisor quiet",
}


def test_nothing_is_lost_and_nothing_runs_twice_at_once_whatever_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    planned = {fault.kind for fault in make_plan(SEED, SECONDS, kinds_here())}
    assert planned == set(kinds_here()), "the run is too short for all kinds of faults"
    # Not on pytest-trio's loop: what is wrong is judged when all of it has ended.
    facts = trio.run(run, tmp_path / "run", SEED, SECONDS)
    told = table(figures(facts))
    assert not judge(facts), f"{told}\nrun it again with FFSUPER_CHAOS_SEED={SEED}; its logs are in {tmp_path}"
    assert planned - {done.kind for done in facts.faults} <= WITHOUT_VICTIM
    assert len(facts.submitted) > SECONDS, told
    assert sum(facts.refused.values()) > 0, "nobody has tried to write under a lease that was over"


def test_every_kind_of_fault_can_be_done_here() -> None:
    assert kinds_here() == list(KINDS), "there is no C compiler, for clocks that can be stepped"
