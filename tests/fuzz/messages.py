"""Messages between supervisor and child with any values in their fields, and what a fault makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from ffsuper import messages
from ffsuper.child import codec
from ffsuper.messages import (
    Ended,
    FromChild,
    HandlerSettings,
    InterruptReason,
    OnTimeout,
    Outcome,
    Progress,
    Ready,
    ReceivedSignal,
    ToChild,
)
from ffsuper.sansio.frame import LENGTHS
from tests.fuzz.values import JSON, TEXTS

INTEGERS = st.integers(-(2**1023), 2**1023) | st.sampled_from((0, -1, 2**63, 2**1024 - 1, 1 - 2**1024))
TIMEOUTS = st.none() | st.floats(min_value=0, exclude_min=True, allow_nan=False) | st.integers(1, 2**53)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "int": INTEGERS,
    "int | None": st.none() | INTEGERS,
    "str": TEXTS,
    "bool": st.booleans(),
    "bytes": st.binary(max_size=40),
    "tuple[str, ...]": st.lists(TEXTS, max_size=3).map(tuple),
    "Mapping[str, str]": st.dictionaries(TEXTS, TEXTS, max_size=3),
    "Mapping[str, int]": st.dictionaries(TEXTS, INTEGERS, max_size=3),
    "InterruptReason": st.sampled_from(InterruptReason),
    "OnTimeout": st.sampled_from(OnTimeout),
    "float | None": TIMEOUTS,
}


def any_of(kind: type[Any], **chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return what makes messages of a class."""
    return st.builds(
        kind, **{one.name: chosen[one.name] if one.name in chosen else BY_TYPE[str(one.type)] for one in fields(kind)}
    )


def any_of_all(kinds: Iterable[type[Any]]) -> st.SearchStrategy[Any]:
    """Return what makes messages of each of several classes."""
    return st.one_of([any_of(kind) for kind in kinds])


BY_TYPE["tuple[ReceivedSignal, ...]"] = st.lists(any_of(ReceivedSignal), max_size=3).map(tuple)
BY_TYPE["tuple[HandlerSettings, ...]"] = st.lists(any_of(HandlerSettings), max_size=3).map(tuple)
OUTCOMES: st.SearchStrategy[Outcome] = any_of_all(codec.OUTCOMES.values())
SAID: st.SearchStrategy[FromChild] = st.one_of(
    any_of(Ready),
    any_of(Progress, percent=st.integers(0, 100)),
    any_of_all(kind for kind in codec.FROM_CHILD.values() if kind is not Progress),
    st.builds(Ended, INTEGERS, OUTCOMES),
)
TOLD: st.SearchStrategy[ToChild] = any_of_all([messages.Start, *codec.FOR_CHILD.values()])
BODIES = st.binary(max_size=8) | st.integers(-1, 1).map(lambda more: bytes(messages.FRAME_LIMIT_BYTES + more))
NAMES = ("Ended", "Ready", "Start", *codec.FROM_CHILD, *codec.FOR_CHILD, *codec.OUTCOMES)


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    """Make the header of a message, mostly with a few members that do not belong."""
    header: dict[str, Any] = json.loads(json.dumps(codec.to_frame(draw(SAID | TOLD)).header))
    for name in draw(st.lists(st.sampled_from([*header, "type", "task", "outcome"]), max_size=3)):
        if draw(st.booleans()):
            header.pop(name, None)
        else:
            header[name] = draw(JSON | st.sampled_from(NAMES))
    return header


def framed(header: bytes, body: bytes = b"") -> bytes:
    """Return a frame with any bytes for a header."""
    return LENGTHS.pack(len(header), len(body)) + header + body
