from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsuper.messages import LaneId
from ffsuper.sansio.scan import WINDOW, Place, ScanOrder

PAGE = 4


def lanes(count: int) -> list[LaneId]:
    return [LaneId(f"lane-{number}") for number in range(count)]


def nothing(places: list[Place]) -> dict[Place, tuple[int, int]]:
    return dict.fromkeys(places, (0, 0))


@given(lane_count=st.integers(1, 9), partitions=st.integers(1, 300), seed=st.integers(0, 299))
def test_one_round_covers_every_lane_of_every_partition_once(lane_count: int, partitions: int, seed: int) -> None:
    order, seen = ScanOrder(lanes(lane_count), partitions, seed), []
    while not order.round_was_fruitless:
        places = order.next_places()
        assert len(places) <= WINDOW
        seen += places
        order.seen(places, nothing(places), PAGE)
    pairs = [(place.lane, place.partition) for place in seen]
    assert len(pairs) == len(set(pairs)) == lane_count * partitions


def test_the_lanes_take_turns_at_each_window() -> None:
    order, firsts = ScanOrder(lanes(2), 64, seed=5), []
    for _ in range(5):
        places = order.next_places()
        firsts.append((places[0].lane, places[0].partition))
        order.seen(places, nothing(places), PAGE)
    assert firsts == [("lane-0", 5), ("lane-1", 5), ("lane-0", 37), ("lane-1", 37), ("lane-0", 5)]


def test_a_place_that_had_work_is_looked_at_again_with_the_next_window() -> None:
    order = ScanOrder(lanes(1), 64, seed=0)
    first = order.next_places()
    order.seen(first, nothing(first) | {first[3]: (2, 2)}, PAGE)
    second = order.next_places()
    assert Place(LaneId("lane-0"), 3) in second
    assert {place.partition for place in second} == {3, *range(32, 64)}


def test_a_hot_place_inside_the_next_window_is_read_once() -> None:
    order = ScanOrder(lanes(1), 8, seed=0)
    places = order.next_places()
    order.seen(places, nothing(places) | {places[3]: (2, 2)}, PAGE)
    again = order.next_places()
    assert sorted(place.partition for place in again) == list(range(8))


def test_full_pages_of_others_work_are_paged_past_and_the_first_page_comes_again_after_the_last() -> None:
    order, offsets = ScanOrder(lanes(1), 1, seed=0), []
    for members in (PAGE, PAGE, 1, PAGE):
        (place,) = order.next_places()
        offsets.append(place.offset)
        order.seen([place], {place: (members, 0)}, PAGE)
    assert offsets == [0, PAGE, 2 * PAGE, 0]


def test_a_page_with_work_is_read_again_before_going_on() -> None:
    order = ScanOrder(lanes(1), 1, seed=0)
    (place,) = order.next_places()
    order.seen([place], {place: (PAGE, 0)}, PAGE)
    (place,) = order.next_places()
    order.seen([place], {place: (PAGE, 1)}, PAGE)
    (place,) = order.next_places()
    assert place.offset == PAGE


@pytest.mark.parametrize("windows", [1, 3])
def test_work_anywhere_begins_the_round_anew(windows: int) -> None:
    order = ScanOrder(lanes(1), windows * WINDOW, seed=0)
    for _ in range(windows):
        places = order.next_places()
        order.seen(places, nothing(places), PAGE)
    assert order.round_was_fruitless
    places = order.next_places()
    order.seen(places, nothing(places) | {places[0]: (1, 1)}, PAGE)
    assert not order.round_was_fruitless


def test_where_there_is_work_everywhere_each_look_begins_further_on_and_lanes_take_turns() -> None:
    order = ScanOrder(lanes(2), 64, seed=0)
    begins = []
    for _ in range(6):
        places = order.next_places(128)
        order.seen(places, dict.fromkeys(places, (PAGE, PAGE)), PAGE)
        begins.append(places[0].partition)
    assert begins == [0, 32, 0, 32, 0, 32]
    assert [place.partition for place in places[:6]] == [32, 32, 33, 33, 34, 34]
    assert len({place.lane for place in places[:2]}) == 2


def test_what_others_have_to_do_is_known_until_it_is_gone() -> None:
    order = ScanOrder(lanes(1), 1, seed=0)
    for found, others in [((2, 0), True), ((2, 1), False), ((1, 0), True), ((0, 0), False)]:
        (place,) = order.next_places()
        order.seen([place], {place: found}, PAGE)
        assert order.has_others_work == others


def test_a_place_that_is_empty_behind_a_full_page_is_read_from_its_beginning_again() -> None:
    order = ScanOrder(lanes(1), 1, seed=0)
    (place,) = order.next_places()
    order.seen([place], {place: (PAGE, 0)}, PAGE)
    (behind,) = order.next_places()
    order.seen([behind], {}, PAGE)
    (again,) = order.next_places()
    assert (behind.offset, again.offset) == (PAGE, 0)
