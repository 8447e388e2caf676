"""The checks find what they are there for: each is shown a run with one thing wrong."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ffsuper.clients import Execution
from ffsuper.messages import ExecutionId
from tests.chaos import history
from tests.chaos.checks import (
    Facts,
    attempts_by_cause,
    judge,
    lost_with_store,
    overlaps_after_lost_writes,
    recoveries,
)
from tests.chaos.plan import KINDS, make_plan
from tests.chaos.report import figures, table
from tests.chaos.submitter import Submitted
from tests.chaos.supervisors import Exit
from tests.chaos.world import Done

ONE = ExecutionId("{fp:1}:one")
WELL = ("1.0 start 0 initial 7", "1.5 effect 0 initial 7", "2.0 returned 0 initial 7")
FRAMES = [(0, b"0 %d" % number) for number in range(8)]
RESULT = b'{"attempt": 0, "pid": 7}'


def execution(state: str = "completed", **record: str) -> Execution:
    return Execution.of(ONE, {"public_state": state, "current_attempt_index": "0", **record}, {}, [])


def read(folder: Path, *lines: str) -> history.History:
    """Return the history of one execution: time, what, attempt, its type, process."""
    with (folder / "history").open("w") as file:
        for line in lines:
            at, what, rest = line.split(maxsplit=2)
            file.write(f"{at} {what} {ONE} {rest}\n")
    return history.read(folder / "history")


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """Provide what is left of a run in which all was well."""
    submitted = {ONE: Submitted(ONE, "work", 0.5)}
    return Facts(read(tmp_path, *WELL), submitted, {ONE: execution()}, {ONE: RESULT})


def test_a_run_in_which_all_was_well_is_good(facts: Facts) -> None:
    assert judge(facts) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"executions": {ONE: None}, "results": {}}, "lost: {fp:1}:one (work)"),
        ({"executions": {ONE: execution("active")}, "results": {}}, "not ended well: {fp:1}:one is active"),
        ({"executions": {ONE: execution("failed")}, "results": {}}, "not ended well: {fp:1}:one is failed"),
        ({"executions": {ONE: execution("cancelled")}, "results": {}}, "not ended well: {fp:1}:one is cancelled"),
        ({"results": {ONE: b'{"attempt": 1, "pid": 7}'}}, "a result of no run"),
        ({"results": {ONE: b"of a ghost"}}, "a result of no run"),
        ({"results": {ONE: None}}, "no result"),
        ({"executions": {ONE: execution(retry_count="1")}}, "1 retries for 0 failures"),
        ({"frames": {ONE: [(0, b"1 0"), *FRAMES]}}, "a frame of attempt 1 in the stream of 0"),
        ({"frames": {ONE: [(0, b"0 0"), (0, b"0 2")]}}, "frames are missing: {fp:1}:one has 1 of attempt 0"),
        ({"taken": ["ff_complete_execution"]}, "written under a lease that was over: ff_complete_execution"),
        ({"exits": [Exit("one", 70, True, False, Path("log"))]}, "one ended by itself with code 70"),
        ({"exits": [Exit("one", 78, False, False, Path("log"))]}, "one ended by itself with code 78"),
        ({"exits": [Exit("one", 69, True, False, Path("log"))]}, "one ended by itself with code 69"),
        ({"drained": {"one": None}}, "one ended with code None when told to"),
        ({"descriptors": {"one": (20, 60)}}, "one had 20 descriptors open when it was ready, and 60 at the end"),
        ({"processes": ["python"]}, "left behind, a process: python"),
        ({"keys": ["ff:worker:one:alive"]}, "left behind, a key: ff:worker:one:alive"),
    ],
)
def test_what_is_wrong_is_told(facts: Facts, wrong: dict[str, Any], told: str) -> None:
    (found,) = judge(replace(facts, **wrong))
    assert told in found


@pytest.mark.parametrize(
    "harmless",
    [
        {"exits": [Exit("one", -9, True, True, Path("log")), Exit("one", 69, False, False, Path("log"))]},
        {"drained": {"one": 0}, "descriptors": {"one": (20, 35)}},
        {"frames": {ONE: [(0, b"0 0"), (0, b"0 1"), *FRAMES]}},
        {
            "submitted": {ONE: Submitted(ONE, "cancel", 0.5, is_cancelled=True)},
            "executions": {ONE: execution("cancelled")},
            "results": {},
        },
    ],
)
def test_what_has_its_reasons_is_not_wrong(facts: Facts, harmless: dict[str, Any]) -> None:
    assert judge(replace(facts, **harmless)) == []


def test_a_stream_may_lack_frames_where_the_stores_clock_was_set_meanwhile(facts: Facts) -> None:
    lacking = replace(facts, frames={ONE: FRAMES[:5]})
    assert len(judge(lacking)) == 1
    assert len(judge(replace(lacking, faults=[Done("clock step of the store", 9.0, "store", 9.0)]))) == 1
    assert judge(replace(lacking, faults=[Done("clock step of the store", 1.2, "store", 1.2)])) == []


@pytest.mark.parametrize(
    "second",
    [
        ("1.7 start 1 reclaim 8", "1.8 returned 1 reclaim 8"),  # began while the first had still effects to come
        ("3.0 overlap 1 reclaim 8", "3.0 start 1 reclaim 8", "3.1 returned 1 reclaim 8"),  # met it by its lock
    ],
)
def test_two_runs_at_the_same_time_are_an_overlap(facts: Facts, tmp_path: Path, second: tuple[str, ...]) -> None:
    (found,) = judge(replace(facts, history=read(tmp_path, *WELL, *second)))
    assert found.startswith("overlap: {fp:1}:one at")


def test_a_run_after_one_that_was_cut_short_is_none_and_its_delay_is_the_recovery(
    facts: Facts, tmp_path: Path
) -> None:
    found = read(tmp_path, *WELL[:2], "4.0 start 1 reclaim 8", "5.0 returned 1 reclaim 8")
    hit = [Done("supervisor killed", 1.6, "worker", 3.0, frozenset({7})), Done("store killed", 2.0, "store", 2.5)]
    later = replace(facts, history=found, results={ONE: b'{"attempt": 1, "pid": 8}'}, faults=hit)
    assert judge(later) == []
    assert recoveries(later) == {"supervisor killed": [pytest.approx(2.4)], "store killed": [pytest.approx(1.5)]}
    assert attempts_by_cause(later) == Counter({("initial", ""): 1, ("reclaim", "cut short"): 1})


def test_what_ran_begins_anew_only_where_the_store_has_lost_its_claim(facts: Facts, tmp_path: Path) -> None:
    anew = replace(facts, history=read(tmp_path, *WELL, "3.0 start 0 initial 8", "4.0 returned 0 initial 8"))
    (found,) = judge(anew)
    assert found.startswith("begun anew: {fp:1}:one at 3.000")
    assert judge(replace(anew, lost_writes=[(0.8, 1.8)])) == []


def test_what_the_store_has_lost_is_counted_apart(facts: Facts, tmp_path: Path) -> None:
    gone = replace(facts, executions={ONE: None}, results={}, lost_writes=[(0.2, 0.8)])
    assert (judge(gone), lost_with_store(gone)) == ([], [ONE])
    met = read(tmp_path, *WELL[:2], "1.6 overlap 0 reclaim 8", "1.6 start 0 reclaim 8", "1.9 returned 0 reclaim 8")
    twice = replace(facts, history=met, results={ONE: b'{"attempt": 0, "pid": 8}'}, lost_writes=[(0.8, 1.2)])
    assert (judge(twice), overlaps_after_lost_writes(twice)) == ([], [(ONE, 1.6)])


def test_retries_are_charged_for_failures_crashes_and_killed_children_only(facts: Facts, tmp_path: Path) -> None:
    lines = ("1.0 start 0 initial 7", "1.1 raised 0 initial 7", "2.0 start 1 retry 7", "2.1 crashing 1 retry 7")
    last = ("3.0 start 2 retry 8", "3.2 start 3 retry 9", "3.3 returned 3 retry 9")
    charged = replace(
        facts,
        history=read(tmp_path, *lines, *last),
        executions={ONE: execution(retry_count="3")},
        results={ONE: b'{"attempt": 3, "pid": 9}'},
        faults=[Done("child killed", 3.1, "8", 3.1, frozenset({8}))],
    )
    assert judge(charged) == []
    (found,) = judge(replace(charged, faults=[Done("supervisor killed", 3.1, "one", 3.1, frozenset({8}))]))
    assert "3 retries for 1 failures, 1 crashes and 0 killed children" in found


def test_the_figures_are_told_to_people_and_to_programs(facts: Facts) -> None:
    told = figures(replace(facts, faults=[Done("store killed", 0.1, "store", 0.5)], refused=Counter(stale_lease=3)))
    assert json.loads(json.dumps(told))["recoveries"] == {"store killed": [0.5]}
    assert "1 executions submitted, 1 runs, 1 faults" in table(told)
    assert "store killed                                 1         1    0.50    0.50    0.50" in table(told)


def test_a_plan_is_repeated_by_its_seed_and_has_all_kinds_in_turn() -> None:
    plan = make_plan(3, 120.0)
    assert plan == make_plan(3, 120.0)
    assert plan != make_plan(4, 120.0)
    assert {fault.kind for fault in plan[: len(KINDS)]} == set(KINDS)
    assert all(KINDS[one.kind][0] <= one.lasts_s <= KINDS[one.kind][1] and one.at_s < 120.0 for one in plan)
