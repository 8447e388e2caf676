"""Frames on the socket between supervisor and child: a small JSON header, and bytes that nobody interprets.

    4 bytes header length | 4 bytes body length | header: a JSON object in UTF-8 | body

Lengths are big-endian. Imported inside children: the standard library only.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

from ffsuper.errors import LocalProtocolError, RemoteProtocolError

LENGTHS = struct.Struct(">II")
# A header holds ids, tags, a failure's text; a body holds a payload or result, which Redis bounds.
HEADER_LIMIT_BYTES = 1 << 20
BODY_LIMIT_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    header: dict[str, Any]
    body: bytes = field(default=b"", repr=False)


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes.

    Raises:
        LocalProtocolError: header or body is over its limit.
    """
    header = json.dumps(frame.header, separators=(",", ":")).encode()
    if len(header) > HEADER_LIMIT_BYTES:
        raise LocalProtocolError(f"a header of {len(header)} bytes is over the limit of {HEADER_LIMIT_BYTES}")
    if len(frame.body) > BODY_LIMIT_BYTES:
        raise LocalProtocolError(f"a body of {len(frame.body)} bytes is over the limit of {BODY_LIMIT_BYTES}")
    return LENGTHS.pack(len(header), len(frame.body)) + header + frame.body


class Decoder:
    """Turns received bytes back into frames, however they were cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes as they arrive."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, or None until more bytes come.

        Raises:
            RemoteProtocolError: what arrived is no frame.
        """
        if len(self._buffer) < LENGTHS.size:
            return None
        header_length, body_length = LENGTHS.unpack_from(self._buffer)
        if header_length > HEADER_LIMIT_BYTES or body_length > BODY_LIMIT_BYTES:
            raise RemoteProtocolError(f"a frame claims {header_length} + {body_length} bytes, over the limits")
        body_start = LENGTHS.size + header_length
        end = body_start + body_length
        if len(self._buffer) < end:
            return None
        try:
            header = json.loads(self._buffer[LENGTHS.size : body_start])
        except (ValueError, RecursionError):
            raise RemoteProtocolError("a frame's header is not JSON") from None
        if not isinstance(header, dict):
            raise RemoteProtocolError("a frame's header is not an object")
        frame = Frame(header, bytes(self._buffer[body_start:end]))
        del self._buffer[:end]
        return frame

    def end(self) -> None:
        """Note that nothing more will come.

        Raises:
            RemoteProtocolError: in the middle of a frame.
        """
        if self._buffer:
            raise RemoteProtocolError(f"the last frame was cut off after {len(self._buffer)} bytes")
