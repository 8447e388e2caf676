"""One budget of the Lua tests: its keys, and calls with plain arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.lua.world import Arg, World

ID = "11111111-1111-1111-1111-111111111111"
BUDGET = f"ff:budget:{{b:3}}:{ID}"
LIMITS, USAGE = f"{BUDGET}:limits", f"{BUDGET}:usage"
RESETS, POLICIES = "ff:idx:{b:3}:budget_resets", "ff:idx:{b:3}:budget_policies"
REPORT_KEY = "ff:usagededup:{b:3}:k1"
DAY_MS = 86_400_000
NOW = "1700000000000"
Limits = dict[str, tuple[str, str]]


def create_args(limits: Limits | None = None, *, interval: Arg = "0", now: Arg = NOW) -> list[Arg]:
    """Return the arguments that create a budget with ``{dimension: (hard, soft)}``."""
    chosen = {"tok": ("100", "80")} if limits is None else limits
    hard, soft = [pair[0] for pair in chosen.values()], [pair[1] for pair in chosen.values()]
    head: list[Arg] = [ID, "lane", "gpu", "strict", "fail", "warn", interval, now, str(len(chosen))]
    return [*head, *chosen, *hard, *soft]


def create(world: World, limits: Limits | None = None, *, interval: Arg = "0", now: Arg = NOW) -> Any:
    return create_with(world, create_args(limits, interval=interval, now=now))


def create_with(world: World, args: Sequence[Arg]) -> Any:
    return world.call("ff_create_budget", [BUDGET, LIMITS, USAGE, RESETS, POLICIES], list(args))


def report(world: World, *deltas: tuple[Arg, Arg], now: Arg = NOW, key: Arg | None = "") -> Any:
    """Report ``(dimension, delta)`` pairs; ``key=None`` leaves the last argument out."""
    args: list[Arg] = [str(len(deltas)), *(pair[0] for pair in deltas), *(pair[1] for pair in deltas), now]
    return report_with(world, args if key is None else [*args, key])


def report_with(world: World, args: Sequence[Arg]) -> Any:
    return world.call("ff_report_usage_and_check", [USAGE, LIMITS, BUDGET], list(args))


def reset(world: World, *args: Arg) -> Any:
    return world.call("ff_reset_budget", [BUDGET, USAGE, RESETS], list(args) or [ID, NOW])


def definition(**changed: str) -> dict[str, str]:
    """Return a new budget's definition, with ``changed`` fields."""
    return {
        "budget_id": ID,
        "scope_type": "lane",
        "scope_id": "gpu",
        "enforcement_mode": "strict",
        "on_hard_limit": "fail",
        "on_soft_limit": "warn",
        "reset_interval_ms": "0",
        "breach_count": "0",
        "soft_breach_count": "0",
        "created_at": NOW,
        "last_updated_at": NOW,
    } | changed
