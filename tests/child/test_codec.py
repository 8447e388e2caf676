from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsuper.child import codec
from ffsuper.errors import RemoteProtocolError
from ffsuper.messages import (
    CancelledByHandler,
    Completed,
    CreateWaitpoint,
    Deferred,
    Drain,
    Emit,
    Emitted,
    Ended,
    Failed,
    FromChild,
    HandlerSettings,
    Interrupt,
    InterruptReason,
    OnTimeout,
    Progress,
    Ready,
    ReceivedSignal,
    ReportUsage,
    RequestFailed,
    Start,
    Suspended,
    ToChild,
    Unfit,
    UsageReported,
    WaitingForChildren,
    WaitpointCreated,
)
from ffsuper.sansio.frame import Frame

SIGNALS = tuple(ReceivedSignal(name, "a", "c", "t", "i", "k", 5, name.encode()) for name in ("first", "second"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    "message",
    [
        Start(7, "{fp:1}:x", "job", 2, "retry", {"tag": "ä"}, 5, SIGNALS, b"\x00\xff", "00-5-6-01"),
        Start(7, "{fp:1}:x", "job", 2, "retry", {}, None, (), b""),
        Interrupt(7, InterruptReason.TIMEOUT),
        Drain(),
        Emitted(7, 3, "stream_closed"),
        UsageReported(7, 1, "SOFT_BREACH", "tokens", 9, 5),
        WaitpointCreated(7, 1, "id", "key", "token"),
        RequestFailed(7, 1, "no"),
    ],
)
def test_messages_to_a_child_arrive_as_they_were_sent(message: ToChild) -> None:
    assert codec.for_child(codec.to_frame(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Ready((HandlerSettings("job", None, 5, True), HandlerSettings("short", 1.5, None, False))),
        Unfit("broken", "Traceback"),
        Progress(7, 50, "half"),
        Emit(7, "delta", "m", b"\x00\xff"),
        ReportUsage(7, 1, "budget", {"tokens": -5}, "once"),
        CreateWaitpoint(7, 2, "", 5),
        Ended(7, Completed(b"\x00\xff")),
        Ended(7, Failed("no", "exception", retryable=False)),
        Ended(7, Deferred(123)),
        Ended(7, Suspended("waiting_for_signal", ("a", "b"), True, None, OnTimeout.FAIL, "w")),
        Ended(7, WaitingForChildren()),
        Ended(7, CancelledByHandler("no")),
    ],
)
def test_messages_from_a_child_arrive_as_they_were_sent(message: FromChild) -> None:
    assert codec.from_child(codec.to_frame(message)) == message


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({}, "unknown type None"),
        ({"type": "Start"}, "unknown type 'Start'"),
        ({"type": "Progress", "task": 1, "percent": "5", "message": ""}, "'percent' is '5', not int"),
        ({"type": "Progress", "task": 1, "percent": True, "message": ""}, "'percent' is True, not int"),
        ({"type": "Progress", "task": 1, "percent": 101, "message": ""}, "percent is 101, not 0 to 100"),
        ({"type": "Progress", "task": 1, "percent": 5}, "'message' is None, not str"),
        (
            {"type": "Ended", "task": 1, "outcome": "Failed", "reason": "", "category": "", "retryable": 1},
            "'retryable' is 1, not bool",
        ),
        ({"type": "Ended", "task": 1, "outcome": "Deferred", "until_ms": 1.5}, "'until_ms' is 1.5, not int"),
        ({"type": "Ready", "handlers": [["job"]]}, "not a kind, two timeouts"),
        ({"type": "Ended", "task": 1, "outcome": "Started"}, "unknown outcome 'Started'"),
        (
            {"type": "ReportUsage", "task": 1, "request": 1, "budget_id": "", "usage": {"a": 1.5}},
            "'usage' is {'a': 1.5}",
        ),
        ({"type": "Ready", "handlers": {}}, "'handlers' is {}, not list"),
    ],
)
def test_what_is_wrong_with_a_message_from_a_child_is_named(header: dict[str, Any], told: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.from_child(Frame(header))
    assert told in str(caught.value)


@given(
    kind=st.sampled_from(["Ready", "Unfit", "Progress", "Emit", "ReportUsage", "CreateWaitpoint", "Ended"])
    | st.text(),
    members=st.dictionaries(
        st.sampled_from(
            [
                "task",
                "outcome",
                "usage",
                "request",
                "handlers",
                "reason",
                "traceback",
                "percent",
                "message",
                "category",
                "retryable",
                "until_ms",
            ]
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
