"""Budgets and quotas over HTTP, on a real store."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from ffsuper.config import StoreConfig
from tests.server.serving import serving


@pytest.fixture
async def http(settings: StoreConfig, client: Any) -> Any:
    async with serving(settings) as sender:
        yield sender


def new_budget(**changes: Any) -> dict[str, Any]:
    return {
        "budget_id": str(uuid.uuid4()),
        "scope_type": "lane",
        "scope_id": "default",
        "enforcement_mode": "strict",
        "on_hard_limit": "fail",
        "on_soft_limit": "warn",
        "reset_interval_ms": 0,
        "dimensions": ["tokens", "cents"],
        "hard_limits": [10, 0],
        "soft_limits": [5, 0],
        "now": 1,
        **changes,
    }


async def create_budget(http: httpx.AsyncClient, **changes: Any) -> str:
    wanted = new_budget(**changes)
    answer = await http.post("/v1/budgets", json=wanted)
    assert (answer.status_code, answer.json()) == (201, {"Created": {"budget_id": wanted["budget_id"]}})
    return str(wanted["budget_id"])


async def report(http: httpx.AsyncClient, budget: str, amounts: dict[str, int], dedup_key: str | None = None) -> Any:
    wanted = {"dimensions": amounts, "now": 1, "dedup_key": dedup_key}
    answer = await http.post(f"/v1/budgets/{budget}/usage", json=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_budget_is_created_once_and_shown(http: httpx.AsyncClient) -> None:
    budget = await create_budget(http)
    answer = await http.post("/v1/budgets", json=new_budget(budget_id=budget, hard_limits=[99, 99]))
    assert (answer.status_code, answer.json()) == (200, {"AlreadySatisfied": {"budget_id": budget}})
    shown = (await http.get(f"/v1/budgets/{budget}")).json()
    assert int(shown.pop("created_at")) > 1_600_000_000_000
    assert shown == {
        "budget_id": budget,
        "scope_type": "lane",
        "scope_id": "default",
        "enforcement_mode": "strict",
        "usage": {},
        "hard_limits": {"tokens": 10, "cents": 0},
        "soft_limits": {"tokens": 5, "cents": 0},
        "breach_count": 0,
        "soft_breach_count": 0,
        "last_breach_at": None,
        "last_breach_dim": None,
        "next_reset_at": None,
    }


async def test_usage_is_added_once_and_refused_beyond_the_hard_limit(http: httpx.AsyncClient) -> None:
    budget = await create_budget(http)
    assert await report(http, budget, {"tokens": 4}, "first") == "Ok"
    assert await report(http, budget, {"tokens": 4}, "first") == "AlreadyApplied"
    soft = {"dimension": "tokens", "current_usage": 8, "soft_limit": 5}
    assert await report(http, budget, {"tokens": 4, "cents": 1}) == {"SoftBreach": soft}
    hard = {"dimension": "tokens", "current_usage": 8, "hard_limit": 10}
    assert await report(http, budget, {"tokens": 4, "cents": 1}) == {"HardBreach": hard}
    shown = (await http.get(f"/v1/budgets/{budget}")).json()
    assert shown["usage"] == {"tokens": 8, "cents": 1}
    assert (shown["breach_count"], shown["soft_breach_count"], shown["last_breach_dim"]) == (1, 1, "tokens")


async def test_a_budget_is_reset(http: httpx.AsyncClient) -> None:
    once, again = await create_budget(http), await create_budget(http, reset_interval_ms=60_000)
    for budget in (once, again):
        await report(http, budget, {"tokens": 9})
    answer = await http.post(f"/v1/budgets/{once}/reset")
    assert answer.json() == {"Reset": {"next_reset_at": 0}}
    assert (await http.post(f"/v1/budgets/{again}/reset")).json()["Reset"]["next_reset_at"] > 1_600_000_000_000
    assert await report(http, once, {"tokens": 5}) == "Ok"


@pytest.mark.parametrize("rest", ["", "/reset", "/usage"])
async def test_a_budget_that_is_not_there_is_not_found(http: httpx.AsyncClient, rest: str) -> None:
    unknown = str(uuid.uuid4())
    wanted = {"dimensions": {"tokens": 1}, "now": 1} if rest == "/usage" else None
    method = "POST" if rest else "GET"
    answer = await http.request(method, f"/v1/budgets/{unknown}{rest}", json=wanted)
    assert (answer.status_code, answer.json()) == (404, {"error": f"budget not found: {unknown}"})
    answer = await http.request(method, f"/v1/budgets/nonsense{rest}", json=wanted)
    assert (answer.status_code, answer.json()["error"]) == (400, "'nonsense' is not a budget id: it must be a UUID")


async def test_a_budget_whose_lists_differ_in_length_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/budgets", json=new_budget(soft_limits=[5]))
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "dimensions, hard_limits and soft_limits must be of one length",
    )


@pytest.mark.parametrize(
    "changes", [{"budget_id": "nonsense"}, {"hard_limits": [-1, 0]}, {"reset_interval_ms": 2**53}], ids=str
)
async def test_a_budget_with_wrong_data_is_told_its_place(http: httpx.AsyncClient, changes: dict[str, Any]) -> None:
    answer = await http.post("/v1/budgets", json=new_budget(**changes))
    (name,) = changes
    assert answer.status_code == 422
    assert name in answer.json()["error"]


async def test_a_quota_policy_is_created_once(http: httpx.AsyncClient) -> None:
    quota = str(uuid.uuid4())
    wanted = {"quota_policy_id": quota, "window_seconds": 60, "max_requests_per_window": 5, "max_concurrent": 2}
    for status, word in ((201, "Created"), (200, "AlreadySatisfied")):
        answer = await http.post("/v1/quotas", json=wanted | {"now": 1})
        assert (answer.status_code, answer.json()) == (status, {word: {"quota_policy_id": quota}})
