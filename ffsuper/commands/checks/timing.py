"""Times of different sections that have to fit together."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ffsuper.actors.lease_renewer import RETRY_SHARE
from ffsuper.commands.checks.finding import Finding, warning
from ffsuper.config import Config
from ffsuper.sansio.attempt import DUMP_S, lease_grace_s
from ffsuper.sansio.lease import RENEWALS_PER_TTL

# From the kill of a child to its confirmed death, on a busy machine.
DEATH_S = 0.2
# The pause before a second try is spread around RETRY_SHARE by half of it.
LONGEST_RETRY_SHARE = 1.5 * RETRY_SHARE
# Of a lease, what is left for calls when the first renewal has to be repeated.
SHARE_FOR_CALLS = 1 - 1 / RENEWALS_PER_TTL - LONGEST_RETRY_SHARE


def look(config: Config) -> Iterator[Finding]:
    """Yield what does not fit; warnings all, for the worker keeps its promises until something else goes wrong."""
    yield from renewal(config)
    yield from margin(config)
    yield from drain(config)
    yield from stuck(config)


def renewal(config: Config) -> Iterator[Finding]:
    """Check that a lease outlasts one lost call: renewal asked for, timed out, and asked for again after a pause."""
    lease, timeout_s = config.lease, config.store.timeout_s
    room_s = lease.ttl_ms / 1000 * SHARE_FOR_CALLS - lease.margin_ms / 1000
    if timeout_s < room_s:
        return
    least_ms = math.ceil((timeout_s * 1000 + lease.margin_ms) / SHARE_FOR_CALLS / 100 + 1) * 100
    yield warning(
        f"[lease] ttl_ms: a lease of {lease.ttl_ms} ms is lost when one call to the store is, for that is noticed "
        f"after [store] timeout_s, {timeout_s:g} s: raise ttl_ms to {least_ms}"
        + (f", or lower timeout_s below {math.floor(room_s * 10) / 10:g}" if room_s >= 0.1 else "")
    )


def margin(config: Config) -> Iterator[Finding]:
    """Check that a child is dead within the margin: interrupted, its stacks dumped, and killed."""
    margin_s = config.lease.margin_ms / 1000
    ending_s = lease_grace_s(margin_s) + DUMP_S + DEATH_S
    if margin_s < ending_s:
        yield warning(
            f"[lease] margin_ms: {config.lease.margin_ms} ms before a lease ends are too few to end a child, which "
            f"takes up to {ending_s * 1000:.0f} ms: another attempt may begin while it lives; set it to 500 or more"
        )


def drain(config: Config) -> Iterator[Finding]:
    """Check that a handler that is interrupted in a drain has its grace."""
    timeout_s, grace_s = config.drain.timeout_s, config.children.grace_s
    if timeout_s < grace_s:
        yield warning(
            f"[drain] timeout_s: {timeout_s:g} s are less than [children] grace_s, {grace_s:g} s: a handler that is "
            f"interrupted in a drain is killed before its grace is over; raise it to {grace_s:g} or more"
        )


def stuck(config: Config) -> Iterator[Finding]:
    """Check that a store that is slow makes no actor look stuck."""
    limit_s, timeout_s = config.status.stuck_after_s, config.store.timeout_s
    if limit_s <= 2 * timeout_s:
        yield warning(
            f"[status] stuck_after_s: {limit_s:g} s are no more than two calls to the store may take: a store that "
            f"is slow makes the worker look stuck; raise it above {2 * timeout_s:g}, or lower [store] timeout_s"
        )
