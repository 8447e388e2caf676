"""What systemd is told of the program: readiness, status, signs of life, reload and stop.

Each message is one datagram to the socket that systemd names in the environment; without one nothing is sent. The
socket is opened anew for every message, so that it does not matter when whoever listens was started again. Nothing
here fails or waits for long: a program that works goes on working whether or not somebody is told.

Source: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Mapping

LOG = logging.getLogger(__name__)

# systemd drops a message of more than 4096 bytes whole; a character has up to four.
STATUS_CHARACTERS = 500
# A message that changes the unit's state waits so long for room in a full socket. No actor runs meanwhile.
PATIENCE_S = 0.5
# "No limit" as systemd writes it.
INFINITE_USEC = 2**64 - 1


class Notifier:
    """Tells systemd how the program is.

    Attributes:
        watchdog_s: systemd kills the program when it has heard no ``watchdog`` for so long; None for no such limit.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = socket_address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = None if self._address is None else watchdog_s(environ, os.getpid())

    def ready(self, status: str) -> None:
        """Say that the program is up, or is up again after ``reloading``."""
        self._change_state("READY=1", status_line(status))

    def reloading(self, status: str) -> None:
        """Say that the configuration is being read again; ``ready`` has to follow."""
        monotonic_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._change_state("RELOADING=1", f"MONOTONIC_USEC={monotonic_usec}", status_line(status))

    def stopping(self, status: str) -> None:
        """Say that the program is on its way to its end."""
        self._change_state("STOPPING=1", status_line(status))

    def status(self, sentence: str) -> bool:
        """Say how it is, for people: ``systemctl status`` shows it; tell whether that is not to be repeated."""
        return self._send(status_line(sentence))

    def watchdog(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for so much time from now for the start or the stop that is going on, should less be left of it."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def _change_state(self, *lines: str) -> None:
        if not self._send(*lines, patience_s=PATIENCE_S):
            LOG.warning("systemd not told", extra={"lost": lines[0]})

    def _send(self, *lines: str, patience_s: float = 0.0) -> bool:
        """Send one message; return whether it arrived, or nobody is there to be told."""
        if self._address is None:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(patience_s)
                connection.connect(self._address)
                connection.send("\n".join(lines).encode(errors="replace"))
        except OSError as error:
            LOG.debug("message to systemd lost", extra={"lost": lines[0], "error": error})
            return False
        return True


def socket_address(name: str) -> bytes | None:
    """Return the address of the socket ``NOTIFY_SOCKET`` names; None when there is none that we can send to."""
    if name.startswith("/"):
        return os.fsencode(name)
    if name.startswith("@") and len(name) > 1:
        return b"\0" + os.fsencode(name[1:])  # the abstract name space
    if name:
        LOG.info("systemd will not be told anything: no unix socket", extra={"NOTIFY_SOCKET": name})
    return None


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the watchdog's limit for the process ``pid``; None when it has none, or none that makes sense."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    usec = int(text) if re.fullmatch("[0-9]{1,20}", text) else 0
    return usec / 1_000_000 if 0 < usec < INFINITE_USEC else None


def status_line(sentence: str) -> str:
    """Return the line that sets the status; a line break in it would begin the next setting."""
    return f"STATUS={' '.join(sentence.split())[:STATUS_CHARACTERS]}"
