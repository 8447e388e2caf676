from __future__ import annotations

from ffsuper.sansio.run_times import KINDS, RUNS, SHORT_S, RunTimes


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


def test_what_is_remembered_of_kinds_does_not_grow_for_ever() -> None:
    times = RunTimes()
    for number in range(KINDS + 2):
        times.note(f"kind-{number}", 0.0)
    for _ in range(RUNS - 1):
        times.note("kind-0", 0.0)
    assert not times.are_short("kind-0")
    times.note("kind-0", 0.0)
    assert times.are_short("kind-0")
