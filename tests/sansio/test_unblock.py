from __future__ import annotations

import pytest

from ffsuper.sansio.unblock import ANY_NUMBER, budget_ids, capable, within_budget, within_quota


@pytest.mark.parametrize(
    ("required", "offered", "is_there"),
    [
        ("gpu", {"gpu"}, True),
        ("cuda,gpu", {"a,cuda,gpu"}, True),
        ("cuda,gpu", {"cuda", "gpu"}, False),
        ("gpu", set(), False),
        ("gp", {"gpu"}, False),
        ("", set(), True),
        (",", set(), True),
        (",gpu,", {"gpu"}, True),
    ],
)
def test_a_requirement_is_met_by_one_worker_that_has_all(required: str, offered: set[str], is_there: bool) -> None:
    assert capable([required], offered) == ({required: ANY_NUMBER} if is_there else {})


def test_budgets_are_listed_with_commas_and_spaces() -> None:
    assert budget_ids("a, b,,c") == {"a", "b", "c"}


def test_a_list_of_budgets_is_free_when_none_of_them_is_used_up() -> None:
    assert within_budget(["a", "a, b", "c", ""], {"b"}) == {"a": ANY_NUMBER, "c": ANY_NUMBER, "": ANY_NUMBER}


def test_a_quota_lets_so_many_go_as_it_has_room_for() -> None:
    room = {"full": 0, "some": 3, "endless": None}
    assert within_quota(room, room) == {"some": 3, "endless": ANY_NUMBER}
