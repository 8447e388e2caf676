"""``ffsuper top``: lanes, workers and what they run, drawn again and again on the terminal."""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ffsuper.client import Client
from ffsuper.clients import AWAY
from ffsuper.commands import screen
from ffsuper.commands.colour import Meaning, painted
from ffsuper.commands.overview import Look, Rate, as_json, look, rates_between
from ffsuper.commands.places import PATIENCE_S, open_store
from ffsuper.commands.tables import size, span, table
from ffsuper.commands.watching import LANE_HEADS, WORKER_HEADS, lane_row, worker_row
from ffsuper.store.fleet import Load

T = TypeVar("T")

RATE_HEADS = (">STARTED/S", ">FINISHED/S", ">FAILED/S")
RUN_HEADS = ("EXECUTION", ">AGE", ">LEASE", "KIND", "WORKER", "LANE", ">ATTEMPT", ">CHILD", ">MEMORY")
# Rates stand behind so many columns of the lanes.
RATES_BEHIND = 5
# Of workers; all that are about something else are in between.
URGENCY = {"running": 0, "reference": 0, "dead": 2, "stuck": 3}
# Lanes and workers may each have one line in so many of the terminal's, but not fewer than it takes to show one.
SHARE = 4
FEWEST_LINES = 3


def run(options: argparse.Namespace) -> bool:
    """Watch a fleet until somebody has seen enough; where there is no screen, or on demand, print it once."""
    watches = screen.is_there() and not (options.once or options.json)
    with open_store(options, 0.0 if watches else PATIENCE_S) as client:
        if watches:
            with screen.opened() as terminal:
                watch(client, options.interval, terminal)
            return True
        before = look(client)
        time.sleep(options.interval)
        now = look(client)
    rates = rates_between(before.workers, now.workers)
    if options.json:
        print(json.dumps(as_json(now, rates), indent=2))
    else:
        print("\n".join(lines_of(now, rates)))
    return True


def watch(client: Client, interval_s: float, terminal: screen.Screen) -> None:
    """Draw what there is until ``q``. While the store is away, what was seen last stays."""
    seen: Look | None = None
    rates: Mapping[str, Rate] = {}
    while True:
        again_s = time.monotonic() + interval_s
        away = ""
        try:
            now = look(client, terminal.size()[1])
            if seen is not None:
                rates = rates_between(seen.workers, now.workers)
            seen = now
        except AWAY as error:
            away = f"The store is away, trying again: {error}"
        key: str | None = ""
        while key is not None:
            terminal.draw(lines_of(seen, rates, terminal.size(), away))
            key = terminal.wait_key(again_s)
            if key == "q":
                return


def lines_of(
    now: Look | None, rates: Mapping[str, Rate], terminal: tuple[int, int] | None = None, away: str = ""
) -> list[str]:
    """Return what is shown.

    Args:
        terminal: its columns and lines, into which all has to fit; None for no limits.
        away: why there is nothing new.
    """
    width, height = (None, None) if terminal is None else terminal
    told = [painted(away[:width], Meaning.BAD)] if away else []
    if now is None:
        return told
    told += head(now, width)
    left = None if height is None else height - len(told)
    for part in (lane_lines(now, rates, width, share(left)), worker_lines(now, width, share(left))):
        told += ["", *part]
    left = None if height is None else max(0, height - len(told) - 1)
    return [*told, "", *run_lines(now, width, left)][:height]


def share(lines: int | None) -> int | None:
    """Return how many lines lanes, or workers, may have, their heads included."""
    return None if lines is None else max(FEWEST_LINES, lines // SHARE)


def head(now: Look, width: int | None) -> list[str]:
    """Return the lines about the whole."""
    states = Counter(worker.state for worker in now.workers).most_common()
    busy, slots = sum(len(one.running) for one in now.workers), sum(one.slots for one in now.workers)
    clock = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now.now_ms / 1000))
    engine = now.engine if now.engine is not None and now.engine.until_ms > now.now_ms else None
    led = f"{engine.holder} leads, term {engine.term}" if engine else "none leads: delays and timeouts do not end"
    counts = ", ".join(f"{count} {state}" for state, count in states) or "none"
    return [
        f"store    {load(now.load)}  {clock}  {now.url}"[:width],
        painted(f"engine   {led}"[:width], Meaning.BAD if engine is None else Meaning.GOOD),
        f"workers  {counts}; {busy} of {slots} slots busy"[:width],
    ]


def load(found: Load | None) -> str:
    """Return how busy the store is."""
    if found is None:
        return "load unknown"
    limit = f" of {size(found.most_memory_bytes)}" if found.most_memory_bytes else ""
    return f"{found.operations_per_s} operations/s  {size(found.memory_bytes)}{limit}"


def lane_lines(now: Look, rates: Mapping[str, Rate], width: int | None, most: int | None) -> list[str]:
    """Return the table of lanes; where there are too many, of those where most is to be done."""
    chosen = fitting(now.lanes, most, lambda lane: lane.eligible + lane.active)
    rows = []
    for lane in chosen:
        rate = rates.get(lane.name, Rate())
        row, per_second = lane_row(lane), (f"{one:.1f}" for one in (rate.started, rate.finished, rate.failed))
        rows.append([*row[:RATES_BEHIND], *per_second, *row[RATES_BEHIND:]])
    heads = [*LANE_HEADS[:RATES_BEHIND], *RATE_HEADS, *LANE_HEADS[RATES_BEHIND:]]
    return with_rest(table(heads, rows, width), width, len(now.lanes) - len(chosen), "lanes")


def worker_lines(now: Look, width: int | None, most: int | None) -> list[str]:
    """Return the table of workers; where there are too many, of those that something is the matter with."""
    chosen = fitting(now.workers, most, lambda worker: URGENCY.get(worker.state, 1))
    rows = [worker_row(worker) for worker in chosen]
    return with_rest(table(WORKER_HEADS, rows, width), width, len(now.workers) - len(chosen), "workers")


def run_lines(now: Look, width: int | None, most: int | None) -> list[str]:
    """Return the table of what runs, the oldest first."""
    all_run = sum(len(worker.running) for worker in now.workers)
    chosen = now.runs if most is None else now.runs[: rows_in(most, all_run)]
    rows = [
        (
            *(run.running.execution, span(run.age_ms)),
            "" if run.lease_left_ms is None else span(max(0, run.lease_left_ms)),
            *(run.running.kind, run.worker, run.running.lane, str(run.running.attempt), str(run.running.child or "")),
            size(run.running.memory_bytes) if run.running.memory_bytes else "",
        )
        for run in chosen
    ]
    return with_rest(table(RUN_HEADS, rows, width), width, all_run - len(chosen), "executions")


def fitting(found: Sequence[T], lines: int | None, urgency: Callable[[T], int]) -> Sequence[T]:
    """Return what a table of so many lines has room for: the most urgent, in the order in which they are."""
    if lines is None or rows_in(lines, len(found)) == len(found):
        return found
    chosen = heapq.nlargest(rows_in(lines, len(found)), range(len(found)), key=lambda number: urgency(found[number]))
    return [found[number] for number in sorted(chosen)]


def rows_in(lines: int, rows: int) -> int:
    """Return how many of the rows a table of so many lines shows: all, or some and a line about the others."""
    return rows if rows + 1 <= lines else max(0, lines - 2)


def with_rest(lines: list[str], width: int | None, missing: int, what: str) -> list[str]:
    """Return a table's lines with one that says how many rows are not there."""
    return [*lines, painted(f"... and {missing} more {what}"[:width], Meaning.DIM)] if missing else lines
