"""What an operator looks at in the store beside the workers: lanes, leases, the engine, the servers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store import keys
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.replies import Call, text_fields

# An eligible entry's score is its time of creation, less so much for each priority.
PRIORITY_STEP = 1_000_000_000_000
# By how much the clock of the server that created an entry may be ahead of the one that is asked for the time.
CLOCKS_APART_MS = 60_000


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine that led last.

    Attributes:
        holder: who it is, for people.
        until_ms: how long it leads without renewing that, on the store's clock.
    """

    holder: str
    term: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a server of the store is.

    Attributes:
        most_memory_bytes: 0 for no limit.
    """

    operations_per_s: int
    memory_bytes: int
    most_memory_bytes: int


def read_names(key: str) -> Call[list[str]]:
    """Read a set of names, sorted."""
    return Call(("SMEMBERS", key), lambda reply: sorted(name.decode(errors="replace") for name in reply))


def announce(channel: str, message: str) -> Call[None]:
    """Tell those who listen; whether somebody does is not known."""
    return Call(("PUBLISH", channel, message), lambda _: None)


def read_time_ms() -> Call[int]:
    """Read the clock of a server."""
    return Call(("TIME",), lambda reply: int(reply[0]) * 1000 + int(reply[1]) // 1000)


def read_engine() -> Call[Engine | None]:
    """Read which engine led last; None when none ever has."""

    def parse(reply: Any) -> Engine | None:
        told = text_fields(reply)
        holder = told.get("holder", "").rpartition(", ")[0]  # what stands behind it only tells it from others
        term, until_ms = (
            int(value) if value.isdecimal() else 0 for value in (told.get("term", ""), told.get("expires_at", ""))
        )
        return Engine(holder, term, until_ms) if told else None

    return Call(("HGETALL", keys.LEADER), parse)


def read_load() -> Call[Load]:
    """Read how busy a server is."""

    def parse(reply: bytes) -> Load:
        pairs = (line.partition(b":") for line in reply.split(b"\r\n"))
        told = {name: int(value) for name, _, value in pairs if value.isdigit()}
        return Load(*(told.get(name, 0) for name in (b"instantaneous_ops_per_sec", b"used_memory", b"maxmemory")))

    return Call(("INFO",), parse)


def read_lease_end(execution_id: ExecutionId) -> Call[float | None]:
    """Read when an execution's lease ends, on the server's clock; None when it has none, or one without end."""
    key = ExecutionKeys.of(execution_id).partition.index("lease_expiry")
    return Call(("ZSCORE", key, execution_id), lambda reply: None if reply is None else finite(reply))


def read_first(lane: LaneId, partition: int, above: float) -> Call[float | None]:
    """Read the lowest score above a bound in a lane's eligible index."""
    key = PartitionKeys.of_index(partition).lane(lane, "eligible")
    return Call(("ZRANGE", key, f"({above:.17g}", "+inf", "BYSCORE", "LIMIT", 0, 1, "WITHSCORES"), only_score)


def read_last(lane: LaneId, partition: int) -> Call[float | None]:
    """Read the highest score in a lane's eligible index."""
    return Call(
        ("ZRANGE", PartitionKeys.of_index(partition).lane(lane, "eligible"), -1, -1, "WITHSCORES"), only_score
    )


def only_score(reply: Any) -> float | None:
    """Return the score of the only entry, if there is one."""
    return finite(reply[1]) if reply else None


def finite(score: bytes) -> float | None:
    """Return a score that can be reckoned with; None for others."""
    number = float(score)
    return number if math.isfinite(number) else None


def age_ms(score: float, now_ms: int) -> int:
    """Return for how long an eligible entry has been there since its creation."""
    return max(0, int((now_ms + CLOCKS_APART_MS - score) % PRIORITY_STEP) - CLOCKS_APART_MS)


def highest_score(score: float, now_ms: int) -> float:
    """Return the highest score that an entry of the same priority can have now."""
    return score + (now_ms + CLOCKS_APART_MS - score) % PRIORITY_STEP
