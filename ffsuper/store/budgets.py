"""Budgets and quota policies, for those who manage them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffsuper.sansio.partition import of_bytes
from ffsuper.store.keys import BudgetKeys, QuotaKeys
from ffsuper.store.replies import Call, Part, Status, fcall, text_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBudget:
    """A budget with its limits; 0 for no limit, and for no resets."""

    id: str
    scope_type: str
    scope_id: str
    enforcement_mode: str
    on_hard_limit: str
    on_soft_limit: str
    reset_interval_ms: int
    dimensions: Sequence[str]
    hard_limits: Sequence[int]
    soft_limits: Sequence[int]


def budget_keys(budget_id: str, partitions: int) -> BudgetKeys:
    """Return the keys of a budget.

    Raises:
        ValueError: that is no budget's id.
    """
    return BudgetKeys(of_bytes(uuid.UUID(budget_id).bytes, partitions), budget_id)


def quota_keys(quota_id: str, partitions: int) -> QuotaKeys:
    """Return the keys of a quota policy.

    Raises:
        ValueError: that is no quota policy's id.
    """
    return QuotaKeys(of_bytes(uuid.UUID(quota_id).bytes, partitions), quota_id)


def create_budget(keys: BudgetKeys, new: NewBudget) -> Call[bool]:
    """Create a budget; False when there is one already."""
    touched = (keys.definition, keys.limits, keys.usage, keys.index("budget_resets"), keys.index("budget_policies"))
    args: tuple[Part, ...] = (
        *(keys.id, new.scope_type, new.scope_id, new.enforcement_mode, new.on_hard_limit, new.on_soft_limit),
        *(new.reset_interval_ms, int(time.time() * 1000), len(new.dimensions)),
        *new.dimensions,
        *new.hard_limits,
        *new.soft_limits,
    )
    return fcall("ff_create_budget", touched, args, lambda status: status.word == "OK")


def read_budget(keys: BudgetKeys) -> Sequence[Call[dict[str, str]]]:
    """Read definition, usage and limits, in this order; all empty when there is no such budget."""
    return [Call(("HGETALL", key), text_fields) for key in (keys.definition, keys.usage, keys.limits)]


def report_usage(keys: BudgetKeys, usage: Mapping[str, int], dedup_key: str) -> Call[Status]:
    """Add to a budget's usage."""
    dedup = keys.dedup(dedup_key) if dedup_key else ""
    args: tuple[Part, ...] = (len(usage), *usage, *usage.values(), int(time.time() * 1000), dedup)
    return fcall("ff_report_usage_and_check", (keys.usage, keys.limits, keys.definition), args, lambda status: status)


def reset_budget(keys: BudgetKeys) -> Call[int]:
    """Set a budget's usage to zero; tells when that comes next, 0 for never."""
    touched = (keys.definition, keys.usage, keys.index("budget_resets"))
    return fcall("ff_reset_budget", touched, (keys.id, int(time.time() * 1000)), lambda status: status.number(0))


def create_quota(keys: QuotaKeys, window_s: int, rate: int, cap: int) -> Call[bool]:
    """Create a quota policy; False when there is one already."""
    return fcall(
        "ff_create_quota_policy",
        (keys.definition, keys.window, keys.concurrency, keys.admitted_set, keys.index("quota_policies")),
        (keys.id, window_s, rate, cap, int(time.time() * 1000)),
        lambda status: status.word == "OK",
    )
