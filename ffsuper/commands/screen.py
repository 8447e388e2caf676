"""The whole terminal, for as long as a program draws on it: given back as it was, however the program ends.

Source: ECMA-48 and xterm's control sequences, which every terminal with an alternate screen knows.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Alternate screen, no cursor, and no lines that go on in the next one.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
# Of a terminal that does not say how large it is.
USUAL_SIZE = (80, 24)


def is_there() -> bool:
    """Tell whether stdout is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Screen:
    """What is drawn on; made by ``opened``."""

    def __init__(self, woken: socket.socket) -> None:
        self._woken = woken
        self._is_interrupted = False
        # Without a keyboard, as with stdin from a file, only signals end the program.
        self._keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] = termios.tcgetattr(self._keyboard) if self._keyboard is not None else []

    def enter(self) -> None:
        """Take the terminal."""
        if self._keyboard is not None:
            tty.setcbreak(self._keyboard)
        self._write(ENTER)

    def leave(self) -> None:
        """Give the terminal back."""
        self._write(LEAVE)
        if self._keyboard is not None:
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._before)

    def size(self) -> tuple[int, int]:
        """Return how many columns and lines there are."""
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
        return (columns, lines) if columns and lines else USUAL_SIZE

    def draw(self, lines: Sequence[str]) -> None:
        """Show lines in place of what is there; what does not fit is not shown."""
        drawn = (f"{line}{REST_OF_LINE}" for line in lines[: self.size()[1]])
        self._write(HOME + "\r\n".join(drawn) + REST_OF_SCREEN)

    def wait_key(self, until_s: float) -> str | None:
        """Wait for a key.

        Args:
            until_s: for so long, on the monotonic clock.

        Returns:
            the key; empty when the terminal has another size now, or is ours again; None when the time is over.

        Raises:
            KeyboardInterrupt: it was raised before, where nobody could hear it: while an object was being deleted.
        """
        if self._is_interrupted:
            raise KeyboardInterrupt
        watched: list[Any] = [self._woken] if self._keyboard is None else [self._woken, self._keyboard]
        ready, _, _ = select.select(watched, [], [], max(0.0, until_s - time.monotonic()))
        if self._woken in ready:
            self._woken.recv(4096)
            return ""
        if not ready:
            return None
        assert self._keyboard is not None
        if key := os.read(self._keyboard, 1):
            return key.decode(errors="replace")
        self._keyboard = None  # it was closed
        return ""

    def interrupt(self, _: int, __: FrameType | None) -> None:
        """End the program."""
        self._is_interrupted = True
        raise KeyboardInterrupt

    def suspend(self, _: int, __: FrameType | None) -> None:
        """Let the shell have the terminal until it continues us."""
        self.leave()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        self.enter()

    def _write(self, text: str) -> None:
        """Write past Python's buffer, which a signal's handler must not touch while it is in use."""
        left = text.encode(sys.stdout.encoding, errors="replace")
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]


@contextmanager
def opened() -> Iterator[Screen]:
    """Take the terminal while the block lasts. SIGTERM ends the program like Ctrl-C."""
    woken, wakes = socket.socketpair()
    with woken, wakes:
        wakes.setblocking(False)
        screen = Screen(woken)
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            signal.SIGINT: screen.interrupt,
            signal.SIGTERM: screen.interrupt,
            signal.SIGWINCH: nothing,
            signal.SIGTSTP: screen.suspend,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        woken_before = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        try:
            screen.enter()
            yield screen
        finally:
            screen.leave()
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)


def nothing(_: int, __: FrameType | None) -> None:
    """Let a signal do no more than wake whoever waits."""
