"""Keeps count of what the sweeps do, and tells it in few lines: a failure once, everything else once a minute."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

import trio

from ffsuper.engine.pace import received
from ffsuper.messages import SweepReport
from ffsuper.sansio.pulse import Pulses

LOG = logging.getLogger(__name__)

SUMMARY_S = 60.0
# A failure that goes on is told again after this time.
REPEAT_S = 600.0
REMEMBERED = 1_000


@dataclass(slots=True)
class Totals:
    """What one sweep has done since the last summary."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    late_ms: float = 0.0


async def run(reports: trio.MemoryReceiveChannel[SweepReport], pulses: Pulses) -> None:
    """Take reports until the channel closes."""
    totals: dict[str, Totals] = {}
    told_at_s: dict[tuple[str, str], float] = {}
    next_summary_s = trio.current_time() + SUMMARY_S
    async with reports, pulses.open("reporter") as pulse:
        while (report := await received(reports, pulse)) is not None:
            now_s = trio.current_time()
            if now_s >= next_summary_s:
                summarize(totals)
                totals, next_summary_s = {}, now_s + SUMMARY_S
            total = totals.setdefault(report.sweep, Totals())
            total.outcomes.update(report.outcomes)
            total.failed += report.failed
            total.late_ms = max(total.late_ms, report.late_ms)
            if report.failed and now_s >= told_at_s.get((report.sweep, report.why), -REPEAT_S) + REPEAT_S:
                if len(told_at_s) >= REMEMBERED:
                    told_at_s.clear()
                told_at_s[report.sweep, report.why] = now_s
                extra = {"sweep": report.sweep, "entries": report.failed, "example": report.example}
                LOG.warning("sweep cannot move entries", extra={**extra, "error": report.why})
        summarize(totals)


def summarize(totals: dict[str, Totals]) -> None:
    """Write a line for each sweep that has done something."""
    for sweep, total in totals.items():
        numbers = {**total.outcomes, **({"failed": total.failed} if total.failed else {})}
        if numbers:
            LOG.info("swept", extra={"sweep": sweep, **numbers, "late_ms_max": round(total.late_ms)})
