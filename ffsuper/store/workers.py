"""What workers tell of themselves, and what they are told."""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffsuper.messages import ExecutionId
from ffsuper.store import keys
from ffsuper.store.replies import MOST_DIGITS, Call

# An order that nobody has taken for so long is for nobody.
ORDER_TTL_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An execution that a worker runs.

    Attributes:
        child: process id.
    """

    execution: ExecutionId
    kind: str
    lane: str
    attempt: int
    since_ms: int
    child: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker; what is not known of it is empty or 0. Times are Unix times by the worker's clock.

    Attributes:
        state: ``starting``, ``running``, ``quiet``, ``draining`` or ``stuck``, as it says itself; ``silent`` when it
            lives and says nothing, as older versions do; ``dead`` when it has ended without a word; ``reference`` for
            one that is not ffsuper's, of which is not known whether it lives.
        detail: why; for people.
        nonce: tells processes with the same instance id apart.
        memory_bytes: of the supervisor.
        claimed: attempts begun since it started.
        finished: how many of them have come to each outcome, by lane.
        is_fresh: whether it has answered just now; otherwise what it says is older.
    """

    instance_id: str
    state: str
    detail: str
    nonce: str
    host: str
    pid: int
    since_ms: int
    version: str
    lanes: tuple[str, ...]
    capabilities: tuple[str, ...]
    kinds: tuple[str, ...]
    slots: int
    status_address: str
    written_ms: int
    memory_bytes: int
    claimed: int
    finished: Mapping[str, Mapping[str, int]]
    running: tuple[Running, ...]
    is_fresh: bool = False

    @property
    def lives(self) -> bool:
        """Whether it is one of ffsuper's that is not dead."""
        return self.state not in ("dead", "reference")


def read_told(key: str) -> Call[Mapping[str, Any] | None]:
    """Read a JSON object; empty for anything else, None when there is nothing."""
    return Call(("GET", key), lambda reply: None if reply is None else json_object(reply))


def read_capabilities(instance_id: str) -> Call[tuple[str, ...]]:
    """Read the capabilities that a worker advertises."""
    key = keys.worker_capabilities(instance_id)
    return Call(("GET", key), lambda reply: split((reply or b"").decode(errors="replace")))


def parse_worker(
    instance_id: str,
    holder: Mapping[str, Any] | None,
    status: Mapping[str, Any] | None,
    capabilities: Sequence[str],
    *,
    is_own: bool,
) -> Worker:
    """Return a worker.

    Args:
        holder: what its alive key says.
        status: what it says itself.
        is_own: whether it is listed as one of ffsuper's.
    """
    if holder == {} or (holder is None and not is_own):
        told: Mapping[str, Any] = {"state": "reference"}
    elif holder is None:
        # One that is stuck lets its alive key go, and may still be able to say so.
        told = status if status is not None and status.get("state") == "stuck" else {"state": "dead"}
    elif status is None or status.get("nonce") != holder.get("nonce"):  # an earlier process may have written it
        told = {**holder, "state": "silent", "since_ms": unix_ms(text(holder, "since"))}
    else:
        told = status
    return as_told(instance_id, {"capabilities": list(capabilities), **told})


def as_told(instance_id: str, told: Mapping[str, Any]) -> Worker:
    """Read what a worker says; what is missing, or is no value of its kind, is empty or 0."""
    finished = told.get("finished")
    running = told.get("running")
    return Worker(
        instance_id=instance_id,
        state=text(told, "state"),
        detail=text(told, "detail"),
        nonce=text(told, "nonce"),
        host=text(told, "host"),
        pid=number(told, "pid"),
        since_ms=number(told, "since_ms"),
        version=text(told, "version"),
        lanes=texts(told, "lanes"),
        capabilities=texts(told, "capabilities"),
        kinds=texts(told, "kinds"),
        slots=number(told, "slots"),
        status_address=text(told, "status_address"),
        written_ms=number(told, "written_ms"),
        memory_bytes=number(told, "memory_bytes"),
        claimed=number(told, "claimed"),
        finished={
            lane: {outcome: number(counts, outcome) for outcome in counts}
            for lane, counts in (finished.items() if isinstance(finished, dict) else ())
            if isinstance(counts, dict)
        },
        running=tuple(
            parse_running(one) for one in (running if isinstance(running, list) else ()) if isinstance(one, dict)
        ),
    )


def parse_running(told: Mapping[str, Any]) -> Running:
    """Read what a worker says of an execution that it runs."""
    return Running(
        execution=ExecutionId(text(told, "execution")),
        kind=text(told, "kind"),
        lane=text(told, "lane"),
        attempt=number(told, "attempt"),
        since_ms=number(told, "since_ms"),
        child=number(told, "child"),
        memory_bytes=number(told, "memory_bytes"),
    )


def text(told: Mapping[str, Any], name: str) -> str:
    """Return a text out of JSON."""
    value = told.get(name)
    return value if isinstance(value, str) else ""


def texts(told: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return a list of texts out of JSON; it may also be one text, comma-separated."""
    value = told.get(name)
    if isinstance(value, list):
        return tuple(one for one in value if isinstance(one, str))
    return split(value) if isinstance(value, str) else ()


def number(told: Mapping[str, Any], name: str) -> int:
    """Return a whole number out of JSON; 0 for what counts nothing and is no time."""
    value = told.get(name)
    return int(value) if isinstance(value, int | float) and abs(value) < 10**MOST_DIGITS else 0


def split(value: str) -> tuple[str, ...]:
    """Return what a comma-separated text lists."""
    return tuple(filter(None, value.split(",")))


def unix_ms(moment: str) -> int:
    """Return the Unix time of a moment in UTC, as alive keys have it; 0 for anything else."""
    try:
        return calendar.timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ")) * 1000
    except ValueError:
        return 0


def json_object(reply: bytes) -> Mapping[str, Any]:
    """Return a JSON object; empty when it is none."""
    try:
        told = json.loads(reply)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def write_order(instance_id: str, nonce: str, order: str, by: str, at_ms: int) -> Call[None]:
    """Leave an order for a worker; it replaces an earlier one.

    Args:
        nonce: of the process that it is meant for.
        by: who gives it.
    """
    told = json.dumps({"nonce": nonce, "order": order, "by": by, "at_ms": at_ms})
    return Call(("SET", keys.worker_order(instance_id), told, "EX", ORDER_TTL_S), lambda _: None)
