"""What is drawn on a terminal: an interrupt that nobody could hear."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from ffsuper.commands.screen import Screen


def test_an_interrupt_that_was_swallowed_ends_the_next_wait() -> None:
    woken, wakes = socket.socketpair()
    with woken, wakes:
        screen = Screen(woken)
        assert screen.wait_key(time.monotonic()) is None
        with contextlib.suppress(KeyboardInterrupt):  # as the interpreter does where an object is deleted
            screen.interrupt(2, None)
        with pytest.raises(KeyboardInterrupt):
            screen.wait_key(time.monotonic() + 60)
