"""Calls by the names that the functions' headers give their KEYS and ARGV, so that no position is written twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ffsuper.messages import LaneId
from ffsuper.store import libraries
from ffsuper.store.keys import ExecutionKeys
from tests.lua.lua_source import Header, functions_of
from tests.lua.world import Arg, World

HEADERS = {
    function.name: Header.of(function.comment)
    for path in sorted((libraries.source_folder() / libraries.FLOWFABRIC).glob("*.lua"))
    for function in functions_of(path)
    if function.is_registered
}
LANE = LaneId("default")
IN_LANE = ("eligible", "delayed", "active", "suspended", "terminal")
IN_PARTITION = ("lease_expiry", "attempt_timeout", "execution_deadline", "suspension_timeout", "all_executions")
PARTS = {
    **{
        name: name
        for name in ("core", "payload", "result", "tags", "policy", "claim_grant", "attempts", "waitpoints")
    },
    "lease_current": "lease:current",
    "lease_history": "lease:history",
    "suspension": "suspension:current",
    "exec_signals": "signals",
    "meta": "deps:meta",
    "unresolved": "deps:unresolved",
    "all_edges": "deps:all_edges",
}


def keys_of(keys: ExecutionKeys, worker: str, attempt: int, waitpoint_id: str, edge_id: str) -> dict[str, str]:
    """Return every key of an execution under the name that the headers have for it."""
    partition = keys.partition
    found = {name: partition.lane(LANE, name) for name in IN_LANE}
    found |= {name: partition.index(name) for name in IN_PARTITION}
    found |= {name: keys.part(part) for name, part in PARTS.items()}
    found |= {f"blocked_{why}": partition.lane(LANE, f"blocked:{why}") for why in ("dependencies", "budget", "quota")}
    found |= {f"blocked_{why}": partition.lane(LANE, f"blocked:{why}") for why in ("route", "operator")}
    found |= {"attempt": keys.attempt(attempt), "old_attempt": keys.attempt(attempt)}
    found |= {f"attempt_{part}": keys.attempt(attempt, part) for part in ("usage", "policy")}
    found |= {"stream_meta": keys.stream_meta(attempt), "old_stream_meta": keys.stream_meta(attempt)}
    found |= {"frames": keys.stream(attempt), "worker_leases": partition.worker_leases(worker)}
    found |= {"waitpoint": keys.waitpoint(waitpoint_id), "wp_signals": keys.waitpoint(waitpoint_id, "signals")}
    found |= {"wp_condition": keys.waitpoint(waitpoint_id, "condition"), "hmac_secrets": partition.waitpoint_hmac}
    found |= {"pending_wp_expiry": partition.index("pending_waitpoint_expiry"), "dep": keys.part(f"dep:{edge_id}")}
    found |= {"idempotency": partition.noop, "dedup": partition.noop, "upstream_result": partition.noop}
    return found


def call(world: World, function: str, keys: Mapping[str, str], args: Mapping[str, Arg]) -> Any:
    """Call a function; arguments without a value are empty."""
    header = HEADERS[function]
    unknown = args.keys() - {row.name for row in header.args}
    assert not unknown, f"{function} has no {unknown}"
    return world.call(
        function, [keys[row.name] for row in header.keys], [args.get(row.name, "") for row in header.args]
    )
