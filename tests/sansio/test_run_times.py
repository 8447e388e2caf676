from __future__ import annotations

from ffsuper.sansio.run_times import RUNS, SHORT_S, RunTimes


def test_a_kind_is_short_after_so_many_short_runs_in_a_row() -> None:
    times = RunTimes()
    for _ in range(RUNS - 1):
        times.note("job", SHORT_S)
    assert not times.are_short("job")
    times.note("job", SHORT_S)
    assert times.are_short("job")
    assert not times.are_short("another")


def test_a_long_run_ends_that() -> None:
    times = RunTimes()
    for _ in range(2 * RUNS):
        times.note("job", 0.0)
    times.note("job", SHORT_S * 1.01)
    times.note("job", 0.0)
    assert not times.are_short("job")
