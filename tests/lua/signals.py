"""Signals to the execution of ``suspensions``: their two calls, and what an accepted one writes."""

from __future__ import annotations

from typing import Any

from tests.lua.suspensions import (
    EXECUTION,
    HMAC,
    KEYS,
    SUSPENSION,
    SUSPENSION_TIMEOUT,
    WAITPOINT,
    changed,
    lane,
    named_waitpoint,
)
from tests.lua.world import Arg, World

POINT = KEYS.waitpoint(WAITPOINT)
CONDITION = KEYS.waitpoint(WAITPOINT, "condition")
ARRIVED = KEYS.waitpoint(WAITPOINT, "signals")
SIGNAL_KEY = KEYS.signal("signal-1")
DEDUP = KEYS.signal_dedup(WAITPOINT, "once")
TWO_NAMES = {"required_signal_names": ["approved", "paid"], "signal_match_mode": "all"}
FOREIGN = [0, "invalid_waitpoint_for_execution"]

SIGNAL: dict[str, Arg] = {
    "signal_id": "signal-1",
    "execution_id": EXECUTION,
    "waitpoint_id": WAITPOINT,
    "signal_name": "approved",
    "signal_category": "approval",
    "source_type": "user",
    "source_identity": "ada",
    "payload": "",
    "payload_encoding": "json",
    "idempotency_key": "",
    "correlation_id": "c-9",
    "target_scope": "waitpoint",
    "created_at": "1234",
    "dedup_ttl_ms": "86400000",
    "resume_delay_ms": "0",
    "signal_maxlen": "1000",
    "max_signals_per_execution": "10000",
    "waitpoint_token": "",
}


def deliver(world: World, token: str, *, hmac_secrets: str = HMAC, **changes: Any) -> Any:
    """Call ff_deliver_signal for WAITPOINT, or the one that is named."""
    args = changed(SIGNAL, {"waitpoint_token": token, **changes})
    waitpoint = named_waitpoint(changes)
    keys = [
        KEYS.core,
        KEYS.waitpoint(waitpoint, "condition"),
        *signal_keys(args, waitpoint),
        KEYS.waitpoint(waitpoint),
        SUSPENSION,
        *(lane(index) for index in ("eligible", "suspended", "delayed")),
        SUSPENSION_TIMEOUT,
        hmac_secrets,
    ]
    return world.call("ff_deliver_signal", keys, args)


def buffer(world: World, token: str, *, hmac_secrets: str = HMAC, **changes: Any) -> Any:
    """Call ff_buffer_signal_for_pending_waitpoint."""
    args = changed(SIGNAL, {"waitpoint_token": token, **changes})
    waitpoint = named_waitpoint(changes)
    keys = [
        KEYS.core,
        KEYS.waitpoint(waitpoint, "condition"),
        *signal_keys(args, waitpoint),
        KEYS.waitpoint(waitpoint),
        hmac_secrets,
    ]
    return world.call("ff_buffer_signal_for_pending_waitpoint", keys, args)


def signal_keys(args: list[Arg], waitpoint: str) -> list[str]:
    """Return keys 3 to 7 of both signal functions."""
    signal_id = str(args[0])
    idempotency_key = str(args[9]) if len(args) > 9 else ""
    return [
        KEYS.waitpoint(waitpoint, "signals"),
        KEYS.part("signals"),
        KEYS.signal(signal_id),
        KEYS.signal(signal_id, "payload"),
        KEYS.signal_dedup(waitpoint, idempotency_key) if idempotency_key else KEYS.partition.noop,
    ]


def signal_record(now: str, effect: str, **changes: str) -> dict[str, str]:
    return {
        "signal_id": "signal-1",
        "target_execution_id": EXECUTION,
        "target_waitpoint_id": WAITPOINT,
        "target_scope": "waitpoint",
        "signal_name": "approved",
        "signal_category": "approval",
        "source_type": "user",
        "source_identity": "ada",
        "correlation_id": "c-9",
        "idempotency_key": "",
        "created_at": "1234",
        "accepted_at": now,
        "matched_waitpoint_id": WAITPOINT,
        "payload_encoding": "json",
        "observed_effect": effect,
        **changes,
    }


def arrival(now: str) -> tuple[str, ...]:
    return (
        *("signal_id", "signal-1", "signal_name", "approved", "signal_category", "approval", "source_type", "user"),
        *("source_identity", "ada", "matched", "0", "accepted_at", now),
    )


def recorded(now: str, effect: str, **changes: str) -> dict[str, Any]:
    """What every accepted signal without payload and idempotency key writes."""
    return {
        SIGNAL_KEY: signal_record(now, effect, **changes),
        ARRIVED: [arrival(now)],
        KEYS.part("signals"): {"signal-1": int(now)},
    }
