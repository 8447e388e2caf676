"""Tells systemd how the program stands, and that it lives, which is to say that none of its actors is stuck."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ffsuper.systemd import Notifier

LOG = logging.getLogger(__name__)

STATUS_INTERVAL_S = 5.0
# Of the time that systemd waits for a sign of life.
SIGNS_PER_TIMEOUT = 3
# A drain asks for so much time at once, and for more before that is over: what is killed needs some as well.
EXTENSION_S = 30.0


async def run(
    notifier: Notifier,
    stuck: Callable[[], list[str]],
    sentence: Callable[[], str],
    is_draining: Callable[[], bool] = lambda: False,
) -> None:
    """Give signs until cancelled, and log which actors are stuck, once each.

    Args:
        stuck: tells the names of the actors that are.
        sentence: says how things stand.
    """
    interval_s = STATUS_INTERVAL_S
    if notifier.watchdog_s is not None:
        interval_s = min(interval_s, notifier.watchdog_s / SIGNS_PER_TIMEOUT)
    known = set[str]()
    told = ""
    while True:
        names = set(stuck())
        for name in sorted(names - known):
            LOG.error("actor stuck", extra={"actor": name})
        for name in sorted(known - names):
            LOG.info("actor stuck no more", extra={"actor": name})
        known = names
        if not names:
            notifier.watchdog()
            if is_draining():
                notifier.extend_timeout(EXTENSION_S)
        if (said := sentence()) != told and notifier.status(said):
            told = said
        await trio.sleep(interval_s)
