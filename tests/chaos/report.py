"""The figures of a run, as a table for people and as JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.chaos.checks import (
    Facts,
    attempts_by_cause,
    lost,
    lost_with_store,
    overlapping,
    overlaps_after_lost_writes,
    recoveries,
)


def figures(facts: Facts) -> dict[str, Any]:
    """Return all figures of a run, with which several can be added up."""
    return {
        "submitted": len(facts.submitted),
        "runs": sum(1 for _ in facts.history.all_runs()),
        "lost": sum(1 for _ in lost(facts)),
        "overlaps": sum(1 for _ in overlapping(facts)),
        "lost with the store's last second": len(lost_with_store(facts)),
        "overlaps after the store lost a claim": len(overlaps_after_lost_writes(facts)),
        "states": Counter(found.state for found in facts.executions.values() if found is not None),
        "faults": Counter(done.kind for done in facts.faults),
        "recoveries": recoveries(facts),
        "attempts": {" after ".join(filter(None, cause)): n for cause, n in attempts_by_cause(facts).items()},
        "refused": facts.refused,
        "taken": len(facts.taken),
    }


def table(told: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [f"{told['submitted']} executions submitted, {told['runs']} runs, {sum(told['faults'].values())} faults"]
    counts = ("lost", "overlaps", "lost with the store's last second", "overlaps after the store lost a claim")
    lines += [f"{name:40}{told[name]:>8}" for name in counts]
    lines.append(f"{'writes under leases that were over':40}{sum(told['refused'].values()) + told['taken']:>8}")
    lines.append(f"{'  of them taken by the store':40}{told['taken']:>8}")
    lines.append(f"states: {counted(told['states'])}")
    lines.append(f"runs by cause: {counted(told['attempts'])}")
    lines.append("")
    lines.append(f"{'fault':40}{'times':>6}{'cut short':>10}{'p50 s':>8}{'p99 s':>8}{'max s':>8}")
    for kind, times in sorted(told["faults"].items()):
        lines.append(f"{kind:40}{times:>6}{recovery(told['recoveries'].get(kind, ()))}")
    return "\n".join(lines)


def recovery(times_s: Sequence[float]) -> str:
    """Return the columns about recoveries."""
    if not times_s:
        return ""
    ordered = sorted(times_s)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{len(ordered):>10}{statistics.median(ordered):>8.2f}{p99:>8.2f}{ordered[-1]:>8.2f}"


def counted(numbers: dict[str, int]) -> str:
    """Return numbers with their names, the largest first."""
    return ", ".join(f"{name} {number}" for name, number in sorted(numbers.items(), key=lambda one: -one[1]))
