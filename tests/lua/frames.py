"""One attempt's output stream of the Lua tests: its keys, and calls with plain arguments."""

from __future__ import annotations

from typing import Any

from ffsuper.messages import ExecutionId
from ffsuper.store.keys import ExecutionKeys
from tests.lua.world import Arg, World

EXECUTION = ExecutionId("{fp:7}:550e8400-e29b-41d4-a716-446655440000")
KEYS = ExecutionKeys.of(EXECUTION)
FRAMES, META = KEYS.stream(0), KEYS.stream_meta(0)
APPEND_KEYS = [KEYS.core, FRAMES, META]

EXECUTION_ID, ATTEMPT_INDEX, LEASE_ID, LEASE_EPOCH, FRAME_TYPE, TS, PAYLOAD = range(7)
ENCODING, CORRELATION_ID, SOURCE, RETENTION_MAXLEN, ATTEMPT_ID, MAX_PAYLOAD_BYTES = range(7, 13)


def running(world: World, **fields: Arg) -> None:
    """Make the record of an execution that attempt 0 runs under a lease, with ``fields`` changed."""
    record: dict[str, Arg] = {
        "lifecycle_phase": "active",
        "ownership_state": "leased",
        "lease_expires_at": world.now_ms() + 60_000,
        "current_attempt_index": "0",
        "current_lease_id": "lease",
        "current_lease_epoch": "1",
    }
    for name, value in {**record, **fields}.items():
        world.redis.hset(KEYS.core, name, value)


def frame_args(changed: dict[int, Arg] | None = None) -> list[Arg]:
    """Return the arguments of a frame, those at the positions in ``changed`` (from 0) replaced."""
    args: list[Arg] = [EXECUTION, "0", "lease", "1", "delta", "1700", "hello", "utf8", "", "worker", "0", "attempt"]
    args.append("65536")
    for position, value in (changed or {}).items():
        args[position] = value
    return args


def append(world: World, changed: dict[int, Arg] | None = None) -> Any:
    return world.call("ff_append_frame", APPEND_KEYS, frame_args(changed))


def read(world: World, *args: Arg) -> Any:
    return world.call("ff_read_attempt_stream", [FRAMES, META], list(args))
