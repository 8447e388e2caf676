"""Following the output of an execution: the frames of its attempts, one after the other, as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ffsuper.errors import OutcomeUnknownError, StoreError, StoreUnavailableError
from ffsuper.messages import ExecutionId
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.replies import Call, status_of, text_fields
from ffsuper.store.wire import Wire

PAGE = 500
# A close wakes no reader, so nobody waits longer than this before looking.
BLOCK_MS = 500
FIRST = "0-0"


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """One frame of an attempt's output.

    Attributes:
        id: of the stream's entry; grows within an attempt.
        ts_ms: Unix time of the worker that emitted it; 0 when unknown.
    """

    attempt_index: int
    id: str
    frame_type: str
    metadata: str
    ts_ms: int
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an execution and one of its streams are.

    Attributes:
        is_closed: no frame will be added to the stream.
    """

    attempts: int
    has_ended: bool
    is_closed: bool


def follow(
    look: Callable[[int], Standing], read_after: Callable[[int, str, int], Sequence[StreamFrame]], live: bool
) -> Iterator[StreamFrame]:
    """Yield all frames of all attempts in order; then, if ``live``, those to come, until the execution has ended.

    Behind a closed stream comes that of the next attempt, and is waited for even before that has begun: so nobody
    looks in vain again and again, and its first frame ends the waiting.

    Args:
        look: tells how things stand with the attempt of this index.
        read_after: returns that attempt's frames behind one; waits so many milliseconds for the first.
    """
    index, last = 0, FIRST
    while True:
        standing = look(index)
        is_last, is_over = index + 1 >= standing.attempts, standing.has_ended or not live
        # What is read from here on is all there is, if the stream was closed or another attempt had begun.
        is_awaited = is_last and not is_over and not standing.is_closed
        frames = read_after(index, last, BLOCK_MS if is_awaited else 0)
        yield from frames
        if frames:
            last = frames[-1].id
        elif is_last and is_over:
            return
        elif not is_awaited:
            index, last = index + 1, FIRST


def follow_stored(
    wire: Wire, execution_id: ExecutionId, live: bool, is_final: Callable[[str], bool]
) -> Iterator[StreamFrame]:
    """Follow an execution in the store.

    Args:
        wire: a connection of its own, for reading blocks.
        is_final: tells of a public state whether it is the last.

    Raises:
        StoreError: see ``Wire.exchange``; a store that is away for a moment is waited for by reading again.
    """
    return follow(
        lambda index: read(wire, read_standing(execution_id, index, is_final)),
        lambda index, after, block_ms: read(wire, read_frames(execution_id, index, after, block_ms)),
        live,
    )


def read(wire: Wire, calls: Sequence[Call[Any]]) -> Any:
    """Carry out reads as often as it takes; return what the last of them was for."""
    for tries_left in (2, 1, 0):
        try:
            replies = wire.exchange([call.command for call in calls])
        except StoreUnavailableError:
            if not tries_left:
                raise
            continue
        failed = next((reply for reply in replies if isinstance(reply, StoreError)), None)
        if failed is None:
            return calls[-1].parse(replies)
        if not tries_left or not isinstance(failed, OutcomeUnknownError | StoreUnavailableError):
            raise failed
    raise AssertionError("unreachable")


def read_standing(execution_id: ExecutionId, index: int, is_final: Callable[[str], bool]) -> list[Call[Any]]:
    """Read how far an execution and the stream of one attempt are."""
    keys = ExecutionKeys.of(execution_id)

    def parse(replies: Any) -> Standing:
        (attempts, state), closed_at = replies
        return Standing(int(attempts or 0), is_final((state or b"").decode()), bool(closed_at))

    core = Call(("HMGET", keys.core, "total_attempt_count", "public_state"), parse)
    return [core, Call(("HGET", keys.stream_meta(index), "closed_at"), parse)]


def read_frames(execution_id: ExecutionId, index: int, after: str, block_ms: int) -> list[Call[list[StreamFrame]]]:
    """Read the frames behind one, waiting for the first if asked."""
    block = ("BLOCK", block_ms) if block_ms else ()
    stream = ExecutionKeys.of(execution_id).stream(index)

    def parse(replies: Any) -> list[StreamFrame]:
        (reply,) = replies
        return [frame_of(index, *entry) for entry in reply[0][1]] if reply else []

    return [Call(("XREAD", "COUNT", PAGE, *block, "STREAMS", stream, after), parse)]


@dataclass(frozen=True, slots=True)
class Entries:
    """Part of an attempt's stream as it is stored.

    Attributes:
        entries: ids with their fields, which are sorted by name.
        closed_at_ms: None while frames may follow.
    """

    entries: Sequence[tuple[str, dict[str, str]]]
    closed_at_ms: int | None
    closed_reason: str


def read_entries(execution_id: ExecutionId, index: int, first: str, last: str, limit: int) -> Call[Entries]:
    """Read a range, both ends included."""
    keys = ExecutionKeys.of(execution_id)

    def parse(reply: Any) -> Entries:
        if reply[0] == 1:
            return entries_of(*reply[2:5])
        status_of("ff_read_attempt_stream", reply)
        raise AssertionError("unreachable")

    touched = (keys.stream(index), keys.stream_meta(index))
    return Call(("FCALL", "ff_read_attempt_stream", len(touched), *touched, first, last, limit), parse)


def read_entries_after(execution_id: ExecutionId, index: int, after: str, limit: int) -> Sequence[Call[Any]]:
    """Read what follows an entry, in two calls for ``entries_of``: the closing first, so that it hides no frame."""
    keys = ExecutionKeys.of(execution_id)
    closing = Call(("HMGET", keys.stream_meta(index), "closed_at", "closed_reason"), lambda reply: reply)
    stream = keys.stream(index)
    frames = Call(("XREAD", "COUNT", limit, "STREAMS", stream, after), lambda reply: reply[0][1] if reply else [])
    return [closing, frames]


def entries_of(entries: Sequence[Any], closed_at: bytes | None, closed_reason: bytes | None) -> Entries:
    """Return what was read of a stream."""
    found = [(entry_id.decode(), dict(sorted(text_fields(flat).items()))) for entry_id, flat in entries]
    when = (closed_at or b"").decode(errors="replace")
    return Entries(found, int(when) if when.isdecimal() else None, (closed_reason or b"").decode(errors="replace"))


def frame_of(index: int, entry_id: bytes, flat: Sequence[bytes]) -> StreamFrame:
    """Return a frame from a stream's entry."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    ts = fields.get(b"ts", b"")
    return StreamFrame(
        attempt_index=index,
        id=entry_id.decode(),
        frame_type=fields.get(b"frame_type", b"").decode(errors="replace"),
        metadata=fields.get(b"correlation_id", b"").decode(errors="replace"),
        ts_ms=int(ts) if ts.isdigit() else 0,
        payload=fields.get(b"payload", b""),
    )
