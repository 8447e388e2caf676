"""Whatever the store replies, reading it gives a value or a StoreError, and that quickly."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.errors import StoreError, StoreScriptError
from ffsuper.store.connection import Connection
from tests.fuzz.calls import calls, errands, verbs
from tests.fuzz.examples import fuzz
from tests.fuzz.replies import REPLIES, reply_to
from tests.fuzz.stores import NonsenseConnection, NonsenseWire

CALLS = list(calls())
VERBS = dict(verbs())
ERRANDS = dict(errands())
QUICK_S = 1.0


def read(call: Any, reply: Any) -> None:
    """Read a reply."""
    began_s, told = time.process_time(), ""
    try:
        call.parse(reply)
    except StoreScriptError as error:
        told = str(error)
    except StoreError:
        pass  # what a function says when it refuses is told in full
    assert len(told) < 1_000
    assert time.process_time() - began_s < QUICK_S


@fuzz(120)
@given(reply=REPLIES)
@example(reply=[b"total_matchers", b"9" * 12])
@example(reply=b"[" * 100_000)
@example(reply=2**45)
def test_any_reply_is_read_or_refused_by_every_call(reply: Any) -> None:
    for _, call in CALLS:
        read(call, reply)


@fuzz(300)
@given(data=st.data(), call=st.sampled_from([call for _, call in CALLS]))
def test_a_reply_of_the_right_form_with_anything_in_it_is_read_or_refused(data: st.DataObject, call: Any) -> None:
    read(call, data.draw(reply_to(call.command)))


@pytest.mark.parametrize("name", VERBS)
@fuzz(20)
@given(data=st.data())
def test_whatever_is_asked_of_the_store_any_replies_are_taken_or_refused(name: str, data: st.DataObject) -> None:
    async def ask(verb: Callable[[Connection], Awaitable[Any]]) -> None:
        try:
            await verb(NonsenseConnection(data))
        except StoreError:
            return

    trio.run(ask, VERBS[name], clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("name", ERRANDS)
@fuzz(20)
@given(data=st.data())
def test_whatever_is_done_by_a_wire_any_replies_are_taken_or_refused(name: str, data: st.DataObject) -> None:
    try:
        ERRANDS[name](NonsenseWire(data))
    except StoreError:
        return
