"""What the subcommands do that look at a fleet, and that tell a worker something."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from ffsuper.commands.colour import Meaning
from ffsuper.commands.places import open_store
from ffsuper.commands.tables import Cell, size, span, table
from ffsuper.commands.texts import printable
from ffsuper.fleet import ENDED, Lane
from ffsuper.messages import Order
from ffsuper.store.workers import Worker

# What matters most comes first: a narrow terminal shows no more than that.
WORKER_HEADS = (
    *("INSTANCE", "STATE", ">RUNNING", "DETAIL", ">FINISHED", ">SINCE", ">MEMORY"),
    *("LANES", "HOST", ">PID", "VERSION"),
)
LANE_HEADS = ("LANE", ">ELIGIBLE", ">OLDEST", "BLOCKED", ">ACTIVE", ">DELAYED", ">SUSPENDED", ">TERMINAL", ">WORKERS")
STATES = {
    "running": Meaning.GOOD,
    "stuck": Meaning.BAD,
    "dead": Meaning.BAD,
    "silent": Meaning.DIM,
    "reference": Meaning.DIM,
}
DETAILS = {
    "dead": "has ended without a word: what it ran is taken over when its leases end",
    "silent": "says nothing of itself, as older versions do",
    "reference": "is no worker of ffsuper; it may live or not",
}
TOLD = {Order.QUIET: "be quiet", Order.RESUME: "resume", Order.DRAIN: "drain"}
DONE = {"quiet": "is quiet", "draining": "is draining", "running": "claims again", ENDED: "has ended"}


def workers(options: argparse.Namespace) -> bool:
    """Print all workers, a line each."""
    with open_store(options) as client:
        found = client.fleet.workers()
    if options.json:
        print(json.dumps([asdict(worker) for worker in found], indent=2))
    elif found:
        print("\n".join(table(WORKER_HEADS, [worker_row(worker) for worker in found])))
    else:
        print("ffsuper: no worker is there; ffsuper --config worker.toml starts one", file=sys.stderr)
    return True


def lanes(options: argparse.Namespace) -> bool:
    """Print what waits and runs in each lane, a line each."""
    with open_store(options) as client:
        found = client.fleet.lanes([] if options.lane is None else [options.lane])
    if options.json:
        print(json.dumps([asdict(lane) for lane in found], indent=2))
    elif found:
        print("\n".join(table(LANE_HEADS, [lane_row(lane) for lane in found])))
    else:
        print("ffsuper: no worker has served a lane yet; --lane NAME looks at one all the same", file=sys.stderr)
    return True


def worker_row(worker: Worker) -> Sequence[str | Cell]:
    """Return a worker's cells of ``WORKER_HEADS``."""
    now_ms = worker.written_ms if worker.is_fresh else int(time.time() * 1000)
    told = worker.detail or DETAILS.get(worker.state, "")
    if worker.written_ms and not worker.is_fresh:
        told = f"{told}; last heard {span(max(0, now_ms - worker.written_ms))} ago".removeprefix("; ")
    if worker.state == "reference" and worker.capabilities:
        told += f"; capabilities {','.join(worker.capabilities)}"
    return (
        worker.instance_id,
        Cell(worker.state, STATES.get(worker.state, Meaning.WAITING)),
        f"{len(worker.running)}/{worker.slots}" if worker.written_ms else "",
        told,
        str(sum(sum(counts.values()) for counts in worker.finished.values())) if worker.written_ms else "",
        span(max(0, now_ms - worker.since_ms)) if worker.since_ms else "",
        size(worker.memory_bytes) if worker.memory_bytes else "",
        ",".join(worker.lanes),
        worker.host,
        str(worker.pid or ""),
        worker.version,
    )


def lane_row(lane: Lane) -> Sequence[str]:
    """Return a lane's cells of ``LANE_HEADS``."""
    return (
        lane.name,
        str(lane.eligible),
        "" if lane.oldest_wait_ms is None else span(lane.oldest_wait_ms),
        ", ".join(f"{why} {count}" for why, count in lane.blocked.items() if count),
        *(str(count) for count in (lane.active, lane.delayed, lane.suspended, lane.terminal, len(lane.workers))),
    )


def quiet(options: argparse.Namespace) -> bool:
    """Tell a worker to claim no more."""
    return tell(options, Order.QUIET)


def resume(options: argparse.Namespace) -> bool:
    """Tell a worker to claim again."""
    return tell(options, Order.RESUME)


def drain(options: argparse.Namespace) -> bool:
    """Tell a worker to end when what it runs has ended."""
    return tell(options, Order.DRAIN)


def tell(options: argparse.Namespace, order: Order) -> bool:
    """Give an order, and wait until it is obeyed if asked."""
    with open_store(options) as client:
        worker = client.fleet.tell(options.instance, order)
        where = printable(f"{worker.instance_id} (process {worker.pid} on {worker.host})")
        if worker.state == "silent":
            print(f"ffsuper: {where} {DETAILS['silent']}; these may not obey", file=sys.stderr)
        if not options.json:
            print(f"told {where} to {TOLD[order]}", flush=True)
        state = None if options.wait is None else client.fleet.wait_obeyed(worker, order, options.wait)
    if options.json:
        told = {"instance_id": worker.instance_id, "host": worker.host, "pid": worker.pid}
        print(json.dumps({**told, "order": order.value, "is_obeyed": None if state is None else True}))
    elif state is not None:
        print(f"{printable(worker.instance_id)} {DONE[state]}")
    return True
