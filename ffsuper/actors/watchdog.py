"""Tells systemd how the worker stands, and that it lives, which is to say that none of its actors is stuck."""

from __future__ import annotations

import trio

from ffsuper.standing import Standing, State
from ffsuper.systemd import Notifier

STATUS_INTERVAL_S = 5.0
# Of the time that systemd waits for a sign of life.
SIGNS_PER_TIMEOUT = 3
# A drain asks for so much time at once, and for more before that is over: what is killed needs some as well.
EXTENSION_S = 30.0


async def run(notifier: Notifier, standing: Standing) -> None:
    """Give signs until cancelled."""
    interval_s = STATUS_INTERVAL_S
    if notifier.watchdog_s is not None:
        interval_s = min(interval_s, notifier.watchdog_s / SIGNS_PER_TIMEOUT)
    told = ""
    while True:
        if not standing.stuck():
            notifier.watchdog()
            if standing.state is State.DRAINING:
                notifier.extend_timeout(EXTENSION_S)
        if (sentence := standing.sentence()) != told and notifier.status(sentence):
            told = sentence
        await trio.sleep(interval_s)
