from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsuper.child import codec
from ffsuper.errors import RemoteProtocolError
from ffsuper.messages import (
    Completed,
    Deferred,
    Drain,
    Failed,
    FromChild,
    HandlerSettings,
    Interrupt,
    InterruptReason,
    Progress,
    Ready,
    Start,
    ToChild,
    Unfit,
)
from ffsuper.sansio.frame import Frame

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    "message",
    [
        Start("{fp:1}:x", "job", 2, "retry", {"tag": "ä"}, b"\x00\xff"),
        Interrupt("{fp:1}:x", InterruptReason.TIMEOUT),
        Drain(),
    ],
)
def test_messages_to_a_child_arrive_as_they_were_sent(message: ToChild) -> None:
    assert codec.for_child(codec.to_frame(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Ready((HandlerSettings("job", None), HandlerSettings("short", 1.5))),
        Unfit("broken", "Traceback"),
        Progress(50, "half"),
        Completed(b"\x00\xff"),
        Failed("no", "exception", retryable=False),
        Deferred(123),
    ],
)
def test_messages_from_a_child_arrive_as_they_were_sent(message: FromChild) -> None:
    assert codec.from_child(codec.to_frame(message)) == message


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({}, "unknown type None"),
        ({"type": "Start"}, "unknown type 'Start'"),
        ({"type": "Progress", "percent": "5", "message": ""}, "'percent' is '5', not int"),
        ({"type": "Progress", "percent": True, "message": ""}, "'percent' is True, not int"),
        ({"type": "Progress", "percent": 101, "message": ""}, "percent is 101, not 0 to 100"),
        ({"type": "Progress", "percent": 5}, "'message' is None, not str"),
        ({"type": "Failed", "reason": "", "category": "", "retryable": 1}, "'retryable' is 1, not bool"),
        ({"type": "Deferred", "until_ms": 1.5}, "'until_ms' is 1.5, not int"),
        ({"type": "Ready", "handlers": [["job"]]}, "not a kind and a timeout"),
        ({"type": "Ready", "handlers": {}}, "'handlers' is {}, not list"),
    ],
)
def test_what_is_wrong_with_a_message_from_a_child_is_named(header: dict[str, Any], told: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.from_child(Frame(header))
    assert told in str(caught.value)


@given(
    kind=st.sampled_from(["Ready", "Unfit", "Progress", "Completed", "Failed", "Deferred"]) | st.text(),
    members=st.dictionaries(
        st.sampled_from(
            ["handlers", "reason", "traceback", "percent", "message", "category", "retryable", "until_ms"]
        ),
        json_values,
    ),
)
def test_any_header_is_a_message_or_refused(kind: str, members: dict[str, Any]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        codec.from_child(Frame({"type": kind, **members}))


def test_the_supervisors_nonsense_is_refused_too() -> None:
    with pytest.raises(RemoteProtocolError, match="unknown type 'Ready'"):
        codec.for_child(Frame({"type": "Ready"}))
