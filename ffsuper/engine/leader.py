"""Leads, if no other engine on this store does, and lets the sweeps run while it leads.

The lead is a lease of some seconds with a term that grows at every change. A leader acts only until asked_at + ttl of
a local clock that also counts while the machine sleeps, less a margin. What a late one has under way does no harm all
the same: every function looks again whether there is something to do, and two that sweep cost load and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from ffsuper.sansio.pulse import Pulse, Pulses
from ffsuper.store.leadership import Lead, Leadership
from ffsuper.store.outage import STORE_AWAY, Outage

LOG = logging.getLogger(__name__)

RENEWALS_PER_TTL = 3
# Of the lead's length: covers the difference in the clocks' rates, and what is under way.
MARGIN = 0.1
STOP_S = 2.0

# Takes the lead, or keeps it.
Ask = Callable[[], Awaitable[Lead]]


async def run(
    leadership: Leadership,
    holder: str,
    ttl_ms: int,
    sweep: Callable[[], Awaitable[None]],
    now_s: Callable[[], float],
    pulses: Pulses,
    say: Callable[[str], None],
) -> None:
    """Lead and follow in turns, until cancelled; then give the lead up.

    Args:
        holder: tells this engine from all others, and says to people who it is.
        sweep: what a leader does; cancelled when the lead is over.
        now_s: the local clock.
        say: hears, after every look, what this engine does: "leads", for example.
    """
    try:
        async with pulses.open("leader") as pulse:
            await lead_and_follow(partial(leadership.lead, holder, ttl_ms), ttl_ms / 1000, sweep, now_s, pulse, say)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S):
            try:
                await leadership.stop(holder)
            except STORE_AWAY as error:
                LOG.warning("lead left to expire", extra={"error": error})


async def lead_and_follow(
    ask: Ask,
    ttl_s: float,
    sweep: Callable[[], Awaitable[None]],
    now_s: Callable[[], float],
    pulse: Pulse,
    say: Callable[[str], None],
) -> None:
    """Lead and follow in turns, until cancelled."""
    outage = Outage(LOG)
    led_by = ""
    while True:
        asked_at_s = now_s()
        try:
            lead = await ask()
        except STORE_AWAY as error:
            say("waits for the store")
            with pulse.resting:
                await outage.wait(error)
            continue
        outage.over()
        if lead.term:
            led_by = ""
            say(f"leads, term {lead.term}")
            await hold(ask, ttl_s, lead, asked_at_s, sweep, now_s, pulse)
            say("leads no more")
        else:
            say(f"stands by; the leader is {lead.holder}")
            if lead.holder != led_by:
                led_by = lead.holder
                LOG.info("engine stands by", extra={"leader": led_by})
        with pulse.resting:
            await trio.sleep(ttl_s / RENEWALS_PER_TTL)


async def hold(
    ask: Ask,
    ttl_s: float,
    lead: Lead,
    asked_at_s: float,
    sweep: Callable[[], Awaitable[None]],
    now_s: Callable[[], float],
    pulse: Pulse,
) -> None:
    """Sweep, and keep the lead; return when it is over."""
    LOG.info("engine leads", extra={"term": lead.term})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        term = lead.term
        while term == lead.term:
            # An answer may have come so late that nothing is left.
            left_s = asked_at_s + ttl_s * (1 - MARGIN) - now_s()
            with trio.move_on_after(max(0.0, left_s)) as in_time:
                with pulse.resting:
                    await trio.sleep(max(0.0, ttl_s / RENEWALS_PER_TTL - (now_s() - asked_at_s)))
                term, asked_at_s = await renewed(ask, now_s, pulse)
            if in_time.cancelled_caught:
                term = 0
        nursery.cancel_scope.cancel()
    LOG.warning("engine leads no more", extra={"term": lead.term})


async def renewed(ask: Ask, now_s: Callable[[], float], pulse: Pulse) -> tuple[int, float]:
    """Keep the lead, as often as it takes; return the term that it has now, and when it was asked for."""
    outage = Outage(LOG)
    while True:
        asked_at_s = now_s()
        try:
            return (await ask()).term, asked_at_s
        except STORE_AWAY as error:
            with pulse.resting:
                await outage.wait(error)
