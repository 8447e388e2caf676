"""Routes of budgets and quotas."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from ffsuper.server import answers
from ffsuper.server.bodies import CreateBudget, CreateQuota, ReportUsage
from ffsuper.server.service import HttpError, Service, service_of
from ffsuper.store import budgets
from ffsuper.store.budgets import NewBudget
from ffsuper.store.keys import BudgetKeys

router = APIRouter(prefix="/v1", tags=["budgets"])
Served = Annotated[Service, Depends(service_of)]


def keys_of(budget_id: str, service: Service) -> BudgetKeys:
    """Return the keys of the budget that a path names.

    Raises:
        HttpError: that is no budget's id.
    """
    try:
        return budgets.budget_keys(budget_id, service.counts.budget)
    except ValueError:
        raise HttpError(400, f"{budget_id!r} is not a budget id: it must be a UUID") from None


async def read(keys: BudgetKeys, service: Service) -> list[dict[str, str]]:
    """Return a budget's definition, usage and limits.

    Raises:
        HttpError: there is no such budget.
    """
    found = await service.connection.run_all(budgets.read_budget(keys))
    if not found[0].get("budget_id"):
        raise HttpError(404, f"budget not found: {keys.id}")
    return found


@router.post(
    "/budgets",
    status_code=201,
    responses={201: {"model": answers.BUDGET_CREATED}, 200: {"model": answers.BUDGET_KNOWN}},
)
async def create_budget(body: CreateBudget, service: Served) -> JSONResponse:
    """Create a budget."""
    if not len(body.dimensions) == len(body.hard_limits) == len(body.soft_limits):
        raise HttpError(400, "dimensions, hard_limits and soft_limits must be of one length")
    new = NewBudget(
        id=body.budget_id,
        scope_type=body.scope_type,
        scope_id=body.scope_id,
        enforcement_mode=body.enforcement_mode,
        on_hard_limit=body.on_hard_limit,
        on_soft_limit=body.on_soft_limit,
        reset_interval_ms=body.reset_interval_ms,
        dimensions=body.dimensions,
        hard_limits=body.hard_limits,
        soft_limits=body.soft_limits,
    )
    is_new = await service.run(budgets.create_budget(keys_of(body.budget_id, service), new))
    return created(is_new, budget_id=body.budget_id)


@router.get("/budgets/{budget_id}", responses={200: {"model": answers.Budget}, **answers.NOT_FOUND})
async def show_budget(budget_id: str, service: Served) -> JSONResponse:
    """Return a budget."""
    keys = keys_of(budget_id, service)
    definition, usage, limits = await read(keys, service)
    usage.pop("breached_at", None)
    answer: dict[str, Any] = {
        **{name: definition.get(name, "") for name in ("budget_id", "scope_type", "scope_id", "enforcement_mode")},
        "usage": numbers(usage),
        "hard_limits": numbers(limits, "hard:"),
        "soft_limits": numbers(limits, "soft:"),
        "breach_count": number(definition.get("breach_count", "")),
        "soft_breach_count": number(definition.get("soft_breach_count", "")),
    }
    for name in ("last_breach_at", "last_breach_dim", "next_reset_at", "created_at"):
        answer[name] = definition.get(name) or None
    return JSONResponse(answer)


@router.post("/budgets/{budget_id}/usage", responses={200: {"model": answers.USAGE}, **answers.NOT_FOUND})
async def report_usage(budget_id: str, body: ReportUsage, service: Served) -> JSONResponse:
    """Add to a budget's usage, unless that would exceed a hard limit."""
    keys = keys_of(budget_id, service)
    await read(keys, service)
    status = await service.run(budgets.report_usage(keys, body.dimensions, body.dedup_key or ""))
    match status.word:
        case "SOFT_BREACH" | "HARD_BREACH":
            kind = "soft" if status.word == "SOFT_BREACH" else "hard"
            told = {"dimension": status.text(0), "current_usage": status.number(1), f"{kind}_limit": status.number(2)}
            return JSONResponse({f"{kind.capitalize()}Breach": told})
        case "ALREADY_APPLIED":
            return JSONResponse("AlreadyApplied")
    return JSONResponse("Ok")


@router.post("/budgets/{budget_id}/reset", responses={200: {"model": answers.BUDGET_RESET}, **answers.NOT_FOUND})
async def reset_budget(budget_id: str, service: Served) -> JSONResponse:
    """Set a budget's usage to zero."""
    keys = keys_of(budget_id, service)
    await read(keys, service)
    return JSONResponse({"Reset": {"next_reset_at": await service.run(budgets.reset_budget(keys))}})


@router.post(
    "/quotas",
    status_code=201,
    responses={201: {"model": answers.QUOTA_CREATED}, 200: {"model": answers.QUOTA_KNOWN}},
)
async def create_quota(body: CreateQuota, service: Served) -> JSONResponse:
    """Create a quota policy."""
    keys = budgets.quota_keys(body.quota_policy_id, service.counts.quota)
    is_new = await service.run(
        budgets.create_quota(keys, body.window_seconds, body.max_requests_per_window, body.max_concurrent)
    )
    return created(is_new, quota_policy_id=body.quota_policy_id)


def created(is_new: bool, **ids: str) -> JSONResponse:
    """Return the answer to a creation."""
    return JSONResponse({"Created" if is_new else "AlreadySatisfied": ids}, 201 if is_new else 200)


def numbers(fields: dict[str, str], prefix: str = "") -> dict[str, int]:
    """Return the fields that begin so as numbers."""
    return {name[len(prefix) :]: number(text) for name, text in fields.items() if name.startswith(prefix)}


def number(text: str) -> int:
    """Read a number of a record; 0 for what is none."""
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return 0
