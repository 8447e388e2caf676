"""Budgets and quotas of a server, for the client that manages them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from ffsuper.admin.answers import Budget, budget_of, usage_of
from ffsuper.admin.wire import Ask, ServerWire, ignored, now_ms, of_json
from ffsuper.child.context import Usage

T = TypeVar("T")


class BudgetVerbs:
    """The part of ``AdminClient`` that is about budgets and quotas."""

    _wire: ServerWire

    def create_budget(
        self,
        hard_limits: Mapping[str, int],
        soft_limits: Mapping[str, int] | None = None,
        *,
        budget_id: str = "",
        scope_type: str = "",
        scope_id: str = "",
        reset_interval_s: float = 0.0,
    ) -> str:
        """Create a budget and return its id; one that exists already stays as it is.

        Args:
            hard_limits: by dimension, 0 for none; usage beyond them is not counted, but refused.
            soft_limits: likewise; usage beyond them is counted and told.
            budget_id: a UUID; a new one when empty.
            scope_type: what the budget is for, for people; so is ``scope_id``.
            reset_interval_s: so often usage is set to zero; 0 for never.
        """
        soft = soft_limits or {}
        dimensions = sorted({*hard_limits, *soft})
        known = budget_id or str(uuid.uuid4())
        body = {
            "budget_id": known,
            "scope_type": scope_type,
            "scope_id": scope_id,
            "enforcement_mode": "strict",
            "on_hard_limit": "fail",
            "on_soft_limit": "warn",
            "reset_interval_ms": int(reset_interval_s * 1000),
            "dimensions": dimensions,
            "hard_limits": [hard_limits.get(one, 0) for one in dimensions],
            "soft_limits": [soft.get(one, 0) for one in dimensions],
            "now": now_ms(),
        }
        ask = Ask(verb="create_budget", method="POST", path="/v1/budgets", body=body, read=of_json(ignored))
        self._wire.call(ask)
        return known

    def budget(self, budget_id: str) -> Budget:
        """Return a budget with its usage.

        Raises:
            ValueError: that is no budget id.
            RefusedError: there is none with this id (``budget_not_found``).
        """
        return self._wire.call(about_budget(budget_id, "budget", "", budget_of, "GET"))

    def report_usage(self, budget_id: str, amounts: Mapping[str, int], *, dedup_key: str = "") -> Usage:
        """Add to a budget's usage, by dimension.

        Args:
            dedup_key: a repeated report under this key within 24 hours is not counted.

        Raises:
            ValueError: that is no budget id.
            RefusedError: there is no such budget (``budget_not_found``).
        """
        body = {"dimensions": dict(amounts), "dedup_key": dedup_key or str(uuid.uuid4()), "now": now_ms()}
        return self._wire.call(about_budget(budget_id, "report_usage", "/usage", usage_of, "POST", body))

    def reset_budget(self, budget_id: str) -> int:
        """Set a budget's usage to zero; return the Unix time in ms at which that comes next, 0 for never.

        Not repeated when it may have been carried out: usage that was reported since would be lost.

        Raises:
            ValueError: that is no budget id.
            RefusedError: there is no such budget (``budget_not_found``).
        """

        def reset(told: Any) -> int:
            return int(told["Reset"]["next_reset_at"])

        ask = about_budget(budget_id, "reset_budget", "/reset", reset, "POST", is_repeatable=False)
        return self._wire.call(ask)

    def create_quota(
        self, *, window_s: int = 0, max_requests: int = 0, max_concurrent: int = 0, quota_id: str = ""
    ) -> str:
        """Create a quota policy and return its id; one that exists already stays as it is.

        Args:
            window_s: within so long, ``max_requests`` executions may begin.
            max_concurrent: so many may run at once. 0 is no limit, as in the others.
            quota_id: a UUID; a new one when empty.
        """
        known = quota_id or str(uuid.uuid4())
        body = {
            "quota_policy_id": known,
            "window_seconds": window_s,
            "max_requests_per_window": max_requests,
            "max_concurrent": max_concurrent,
            "now": now_ms(),
        }
        self._wire.call(Ask(verb="create_quota", method="POST", path="/v1/quotas", body=body, read=of_json(ignored)))
        return known


def about_budget(
    budget_id: str,
    verb: str,
    rest: str,
    pick: Callable[[Any], T],
    method: str,
    body: Mapping[str, Any] | None = None,
    *,
    is_repeatable: bool = True,
) -> Ask[T]:
    """Return a request about one budget.

    Raises:
        ValueError: that is no budget id.
    """
    try:
        uuid.UUID(budget_id)
    except ValueError:
        raise ValueError(f"{budget_id!r} is not a budget id: it must be a UUID") from None
    return Ask(
        verb=verb,
        method=method,
        path=f"/v1/budgets/{quote(budget_id, safe='')}{rest}",
        body=body,
        read=of_json(pick),
        subject=budget_id,
        missing="budget_not_found",
        is_repeatable=is_repeatable,
    )
