"""Replies as a server may send them: the expected, the damaged and the absurd."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.values import JSON

EXECUTION = b"{fp:7}:0b1f3c52-9d6c-4a6e-8f0e-5b1d3d1f0a11"
WORDS = (
    *(b"", b"OK", b"DUPLICATE", b"resumed", b"closed", b"active", b"leading", b"gone", b"released", b"0", b"1", b"7"),
    *(b"-1", b"1.5", b"nan", b"inf", b"-inf", b"1e999", b"1e308", b"9" * 12, b"9" * 5_000, b"\xff", b"\xd9\xa1"),
    *(b'{"retry_policy":{}}', b"[" * 5_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"[1]", b"2024-01-01T00:00:00Z"),
    *(
        EXECUTION,
        b"{fp:7}:x",
        b"{fp:\xd9\xa1}:",
        b"{fp:" + b"9" * 5_000 + b"}:",
        b"invalid_input",
        b"stale_lease",
        b"waiting",
        b"skipped",
    ),
    *(b"resume_condition_satisfied", b"already_applied", b"completed", b"text", b"worker@host", b"default", b"a,b"),
)
FIELDS = (
    *(b"public_state", b"execution_kind", b"lane_id", b"flow_id", b"current_waitpoint_id", b"total_attempt_count"),
    *(b"terminal_outcome", b"required_capabilities", b"namespace", b"holder", b"term", b"expires_at", b"state"),
    *(b"execution_id", b"current_attempt_index", b"current_worker_instance_id", b"created_at", b"priority"),
    *(b"event", b"lease_id", b"reason", b"ts", b"payload", b"frame_type", b"total_matchers", b"matcher:0:name"),
    *(b"matcher:0:satisfied", b"matcher:0:signal_id", b"accepted_at", b"library_code", b"num_flow_partitions"),
    *(b"hard:tokens", b"tokens", b"public_flow_state"),
)
TOLD = ("nonce", "state", "host", "pid", "since", "since_ms", "lanes", "capabilities", "finished", "running", "kinds")
BYTES = st.sampled_from(WORDS) | st.binary(max_size=6)
SCORES = st.sampled_from((b"1700000000000", b"-7000000000000000", b"0", b"inf", b"-inf", b"nan", b"1e308")) | BYTES
REPORTS = st.dictionaries(st.sampled_from(TOLD), JSON | st.sampled_from(["stuck", "running", "default"]), max_size=6)
TEXTS = BYTES | REPORTS.map(lambda told: json.dumps(told).encode())
INTEGERS = st.sampled_from((-1, 0, 1, 2)) | st.integers(-(2**63), 2**63 - 1)
SCALARS = st.none() | INTEGERS | BYTES
ANY_REPLY: st.SearchStrategy[Any] = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=6), max_leaves=12)


def flat(names: st.SearchStrategy[bytes], values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Return what makes lists of names, each with a value behind it."""
    pairs = st.lists(st.tuples(names, values), max_size=6)
    return pairs.map(lambda found: [part for pair in found for part in pair])


HASHES = flat(st.sampled_from(FIELDS) | BYTES, TEXTS)
ENTRIES = st.lists(st.tuples(BYTES, HASHES).map(list), max_size=3)
STATUSES: st.SearchStrategy[Any] = st.one_of(
    st.lists(BYTES, max_size=14).map(lambda fields: [1, b"OK", *fields]),
    st.lists(st.sampled_from((b"0", b"1", b"2", b"inf", EXECUTION)), max_size=14).map(lambda some: [1, b"OK", *some]),
    st.lists(ANY_REPLY, max_size=4).map(lambda fields: [1, b"OK", *fields]),
    st.builds(lambda status, fields: [status, *fields], st.sampled_from((1, 0, -1)), st.lists(SCALARS, max_size=12)),
    ENTRIES.map(lambda entries: [1, b"OK", entries, b"", b""]),
)
REPLIES = STATUSES | HASHES | ENTRIES | ANY_REPLY
PAGES = st.tuples(st.just(b"0") | BYTES, st.lists(BYTES, max_size=5)).map(list)
BY_COMMAND: dict[str, st.SearchStrategy[Any]] = {
    "HGETALL": HASHES,
    "HGET": st.none() | TEXTS,
    "GET": st.none() | TEXTS,
    "ZSCORE": st.none() | SCORES,
    "SMEMBERS": st.lists(BYTES, max_size=5),
    "SSCAN": PAGES,
    "ZSCAN": PAGES,
    "XRANGE": ENTRIES,
    "XREVRANGE": ENTRIES,
    "XREAD": st.none() | ENTRIES.map(lambda entries: [[b"stream", entries]]),
    "TIME": st.lists(st.sampled_from((b"1700000000", b"5")), min_size=2, max_size=2),
    "EXISTS": INTEGERS,
    "HEXISTS": INTEGERS,
    "ZCARD": INTEGERS,
    "SET": st.none() | st.just(b"OK"),
    "FUNCTION": HASHES.map(lambda one: [one]),
    "FCALL": STATUSES,
    "INFO": HASHES.map(lambda one: b"\r\n".join(b"%b:%b" % pair for pair in zip(one[::2], one[1::2], strict=True))),
}


def reply_to(command: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Return what makes replies to a command that have the right form, with anything inside."""
    match command:
        case ("HMGET" | "ZMSCORE", _, *names):
            return st.lists(st.none() | BYTES, min_size=len(names), max_size=len(names))
        case ("ZRANGE", *more):
            return flat(BYTES, SCORES) if "WITHSCORES" in more else st.lists(BYTES, max_size=5)
    return BY_COMMAND.get(str(command[0]), REPLIES)
