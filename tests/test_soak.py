"""The soak's verdict, and that its parts fit together; what it finds takes an hour."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.soak import marks, verdict
from bench.soak.__main__ import LIMITS, WORKER_TOML, WORKERS, without_nan
from bench.soak.load import ASYNC, FLOW, MIX, PLAIN, dealt
from bench.soak.verdict import Limit, Series, judge
from ffsuper.config_loader import load

CHECKOUT = Path(__file__).parent.parent
HOUR_S = 3_600
MEMORY = (Limit("* MB", 0.02, 1.0),)


def memory_of(level: float, per_hour: float, *, noise: float = 0.5, every_s: int = 5) -> Series:
    """Return a series that grows evenly, with noise."""
    chance = random.Random(7)
    return [
        (at_s, level + per_hour * at_s / HOUR_S + chance.uniform(-noise, noise)) for at_s in range(0, HOUR_S, every_s)
    ]


@pytest.mark.parametrize(
    ("level", "per_hour", "is_flat"),
    [(40.0, 0.0, True), (40.0, 0.8, True), (40.0, 1.3, False), (200.0, 3.0, True), (200.0, 5.0, False)],
)
def test_a_series_may_grow_by_its_limit_and_no_more(level: float, per_hour: float, is_flat: bool) -> None:
    found = judge("worker USS, MB", memory_of(level, per_hour), MEMORY, from_s=0.0)
    assert found.is_flat == is_flat
    assert found.growth == pytest.approx(per_hour, abs=0.1)
    assert found.allowed == pytest.approx(max(1.0, 0.02 * level), rel=0.02)


def test_what_shrinks_is_flat() -> None:
    assert judge("worker USS, MB", memory_of(40.0, -10.0), MEMORY, from_s=0.0).is_flat


def test_what_grows_during_the_warm_up_only_is_flat() -> None:
    series = [(at_s, min(at_s, 1_800) / 10) for at_s in range(0, HOUR_S, 5)]
    assert not judge("worker USS, MB", series, MEMORY, from_s=0.0).is_flat
    assert judge("worker USS, MB", series, MEMORY, from_s=1_800.0).is_flat


def test_a_quarter_of_the_samples_may_be_anything() -> None:
    def disturbed(series: Series) -> Series:
        return [(at_s, 1_000.0 if at_s % 20 == 0 else figure) for at_s, figure in series]

    assert judge("worker USS, MB", disturbed(memory_of(40.0, 0.0)), MEMORY, from_s=0.0).is_flat
    assert not judge("worker USS, MB", disturbed(memory_of(40.0, 5.0)), MEMORY, from_s=0.0).is_flat


def test_one_descriptor_more_is_seen_and_one_that_comes_and_goes_is_not() -> None:
    limits = [one for one in LIMITS if one.names == "*: *"]
    leak = [(at_s, 30.0 + at_s // 1_000) for at_s in range(0, HOUR_S, 5)]
    restless = [(at_s, 30.0 + (at_s // 5) % 2) for at_s in range(0, HOUR_S, 5)]
    assert not judge("plain: supervisor descriptors", leak, limits, from_s=0.0).is_flat
    assert judge("plain: supervisor descriptors", restless, limits, from_s=0.0).is_flat


def test_too_few_samples_say_nothing_and_do_not_pass() -> None:
    found = judge("worker USS, MB", memory_of(40.0, 0.0)[: verdict.LEAST_POINTS - 1], MEMORY, from_s=0.0)
    assert (found.is_flat, found.word) == (False, "unknown")


def test_samples_in_which_nothing_was_measured_are_passed_over() -> None:
    series = [(at_s, math.nan if at_s % 10 else figure) for at_s, figure in memory_of(40.0, 5.0)]
    found = judge("worker USS, MB", series, MEMORY, from_s=0.0)
    assert found.word == "grows"
    assert found.growth == pytest.approx(5.0, abs=0.2)


def test_the_first_limit_that_a_series_falls_under_holds() -> None:
    limits = (Limit("store: *", math.inf, math.inf), Limit("*: *", 0.0, 0.5))
    growing = memory_of(40.0, 20.0)
    assert judge("store: keys", growing, limits, from_s=0.0).is_flat
    assert not judge("plain: keys", growing, limits, from_s=0.0).is_flat


def test_a_series_without_a_limit_is_only_shown() -> None:
    found = judge("executions ended/s", memory_of(40.0, 20.0), LIMITS, from_s=0.0)
    assert (found.allowed, found.is_flat, found.word) == (None, True, "")


def test_the_table_says_what_grows() -> None:
    findings = [
        judge(name, memory_of(40.0, per_hour), MEMORY, from_s=0.0)
        for name, per_hour in (("a MB", 0.0), ("b MB", 8.0))
    ]
    _, flat, growing = verdict.table(findings).splitlines()
    assert flat.startswith("a MB")
    assert flat.endswith("1  flat")
    assert growing.startswith("b MB")
    assert growing.endswith("1  grows")


def test_the_ends_are_counted_by_kind_and_state() -> None:
    told = verdict.ends_table({"echo": {"completed": 3, "failed": 1}, "wait": {"cancelled": 2}})
    assert [line.split() for line in told.splitlines()] == [
        ["all", "cancelled", "completed", "failed"],
        ["echo", "4", "-", "3", "1"],
        ["wait", "2", "2", "-", "-"],
    ]


def test_marks_are_read_on_from_where_reading_stopped(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    reader = marks.Reader(path)
    with path.open("ab", buffering=0) as file:
        file.write(b"async start\t{fp:1}:a\t2000000000\nstart\t{fp:2}:b\t30")
        assert list(reader.fresh()) == [("async start", "{fp:1}:a", 2.0)]
        file.write(b"00000000\n")
        assert list(reader.fresh()) == [("start", "{fp:2}:b", 3.0)]
        assert list(reader.fresh()) == []


def test_large_payloads_are_dealt_as_evenly_as_they_can_be() -> None:
    works = list(itertools.islice(dealt(random.Random(1)), 20_000))
    assert {one.kind for one in works} == {one.kind for one in MIX}
    windows = [works[start : start + 500] for start in range(0, 20_000, 500)]
    expected = 500 * sum(one.weight for one in MIX if one.echoes) / sum(one.weight for one in MIX)
    assert all(abs(sum(one.echoes for one in window) - expected) <= 3 for window in windows)


@pytest.mark.parametrize(("module", "lane"), [("handlers", PLAIN), ("async_handlers", ASYNC)])
def test_what_is_submitted_to_a_lane_has_a_handler_in_its_worker(module: str, lane: str) -> None:
    program = f"import bench.soak.{module}, ffsuper.child.registry as registry; print(*registry.HANDLERS)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    members = {"member", "fail-for-good"} if lane == PLAIN else set()
    assert set(ran.stdout.split()) == {one.kind for one in MIX if one.lane == lane} - {FLOW} | members


@pytest.mark.parametrize("name", WORKERS)
def test_the_workers_can_be_configured_so(tmp_path: Path, name: str) -> None:
    path = tmp_path / "worker.toml"
    own = {
        "name": name,
        "url": "unix:///run/redis.sock",
        "checkout": CHECKOUT,
        "port": 1,
        "variable": "M",
        "marks": "m",
    }
    path.write_text(WORKER_TOML.format(**WORKERS[name], **own))
    assert load(path, {}).config.children.tasks_per_process == WORKERS[name]["tasks_per_process"]


def test_json_has_null_for_what_is_no_number() -> None:
    assert without_nan({"a": [(1.0, math.nan)], "b": {"c": math.inf}, "d": "text"}) == {
        "a": [[1.0, None]],
        "b": {"c": None},
        "d": "text",
    }
