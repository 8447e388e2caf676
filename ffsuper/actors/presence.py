"""Holds the worker instance's alive key, advertises what it takes on, and hears what operators order.

The key is renewed only while every actor shows signs of life, so that a worker which hangs is seen to be away. What
it advertises and tells of itself is written again with the renewals, for a store can lose that, too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable
from typing import TypeVar

import trio

from ffsuper.errors import FencedError, InstanceTakenError, StoreError
from ffsuper.holder import describe_self, described, is_provably_dead, told_by
from ffsuper.messages import Order
from ffsuper.sansio.pulse import Pulse
from ffsuper.standing import Standing
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.presence import Presence

LOG = logging.getLogger(__name__)
T = TypeVar("T")

RENEWALS_PER_TTL = 4
RENEWALS_PER_ADVERTISEMENT = 4
WITHDRAW_S = 2.0
# An announcement for every worker: tell how you stand.
ALL = b"*"
# What comes through the store; the rest is for signals.
REMOTE = {order.value: order for order in (Order.QUIET, Order.RESUME, Order.DRAIN)}


async def run(
    presence: Presence,
    standing: Standing,
    ttl_ms: int,
    changed: trio.MemoryReceiveChannel[None],
    announced: trio.MemoryReceiveChannel[bytes],
    orders: trio.MemorySendChannel[Order],
    task_status: trio.TaskStatus[int | None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take the alive key, advertise, report started, and keep the key until cancelled; then withdraw both.

    Started with the process id of the predecessor that the key was taken over from, None where there was none.

    Args:
        changed: a message when the standing has changed.
        announced: instance ids for which there is an order, and ``ALL``.

    Raises:
        InstanceTakenError: another live process has this instance id.
        FencedError: another process has taken the key from us.
        StoreError: the store cannot be reached at the start.
    """
    holder = describe_self()
    predecessor = await take_key(presence, holder, ttl_ms)
    standing.key_held_s, standing.store_answers = trio.current_time(), True
    post = Post(presence, standing, holder, ttl_ms, orders)
    async with changed, announced, orders:
        try:
            await post.advertise()
            await post.tell()
            task_status.started(predecessor)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow_changes, post, changed)
                nursery.start_soon(follow_orders, presence.instance_id, post, announced)
                async with standing.pulses.open("presence") as pulse:
                    taken_by = await keep_key(presence, post, standing, pulse)
                nursery.cancel_scope.cancel()
            raise FencedError(
                f"another process has taken this worker's instance id, {presence.instance_id!r}"
                f" ([worker] instance_id): {described(taken_by)}"
            )
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + WITHDRAW_S):
                await leave(presence, post)


async def leave(presence: Presence, post: Post) -> None:
    """Withdraw all that was written, unless it is another's by now; the key comes last, for it keeps others out."""
    try:
        if await presence.holder() in (post.holder, b""):
            await post.withdraw()
            await presence.release_alive(post.holder)
    except STORE_AWAY as error:
        LOG.warning("alive key left to expire", extra={"error": error})


async def take_key(presence: Presence, holder: bytes, ttl_ms: int) -> int | None:
    """Take the alive key, from a holder that is provably dead if need be; return this one's process id."""
    while (found := await presence.take_alive(holder, ttl_ms)) is not None:
        if found and not is_provably_dead(found):
            raise InstanceTakenError(
                f"another worker holds the instance id {presence.instance_id!r} ([worker] instance_id):"
                f" {described(found)}"
            )
        if await presence.replace_alive(found, holder, ttl_ms):
            LOG.info("alive key taken over from a dead process", extra={"holder": described(found)})
            return int(told_by(found)["pid"]) if found else None
    return None


class Post:
    """What goes to operators and comes from them; a worker can do without, should a key hold something else."""

    def __init__(
        self,
        presence: Presence,
        standing: Standing,
        holder: bytes,
        ttl_ms: int,
        orders: trio.MemorySendChannel[Order],
    ) -> None:
        self.holder = holder
        self.ttl_ms = ttl_ms
        self._presence = presence
        self._standing = standing
        self._orders = orders
        told = json.loads(holder)
        self._self = {name: told[name] for name in ("nonce", "host", "pid")}
        self._obeyed = b""
        self._damage: set[str] = set()

    async def advertise(self) -> None:
        """Publish what the worker takes on."""
        offer = self._standing.advertised()
        await self._tolerantly(self._presence.advertise(offer.capabilities, offer.lanes))

    async def tell(self) -> None:
        """Write how the worker stands."""
        status = json.dumps(self._self | self._standing.report())
        await self._tolerantly(self._presence.tell(status, self.ttl_ms))

    async def withdraw(self) -> None:
        """Take all of it back."""
        await self._tolerantly(self._presence.withdraw())

    async def _tolerantly(self, call: Awaitable[T]) -> T | None:
        """Return what a call returns; nothing when a key is in its way, which is told once."""
        try:
            return await call
        except STORE_AWAY:
            raise
        except StoreError as error:
            if str(error) not in self._damage:
                self._damage.add(str(error))
                LOG.error("key of another type in the store", extra={"error": error})
            return None

    async def look(self) -> None:
        """Obey the last order, if it is for this very process and was not obeyed yet."""
        found = await self._tolerantly(self._presence.order()) or b""
        if found == self._obeyed:
            return
        self._obeyed = found
        order = order_for(found, self._self["nonce"])
        if order is not None:
            LOG.info("order received", extra={"order": order.value})
            await self._orders.send(order)


def order_for(found: bytes, nonce: str) -> Order | None:
    """Return the order in a key; None when there is none for the process with this nonce."""
    told = told_by(found)
    order = told.get("order")
    return REMOTE.get(order) if told.get("nonce") == nonce and isinstance(order, str) else None


async def keep_key(presence: Presence, post: Post, standing: Standing, pulse: Pulse) -> bytes:
    """Renew the alive key as long as no actor is stuck, and what is told and advertised from time to time.

    Returns:
        the holder, once it is another's.
    """
    outage = Outage(LOG)
    number = 0
    while True:
        number += 1
        with pulse.resting:
            await trio.sleep(post.ttl_ms / 1000 / RENEWALS_PER_TTL)
        stuck = standing.stuck()
        try:
            if number % RENEWALS_PER_ADVERTISEMENT == 0 and not stuck:
                await post.advertise()
            holder = await renew_key(presence, post, stuck)
            standing.store_answers = True
            if holder == post.holder:
                standing.key_held_s = trio.current_time()
            elif holder:
                return holder
            await post.tell()
            await post.look()
            outage.over()
        except STORE_AWAY as error:
            standing.store_answers = False
            await outage.wait(error)


async def renew_key(presence: Presence, post: Post, stuck: list[str]) -> bytes:
    """Renew the alive key, or take it again when it ran out; one who is stuck only looks.

    Returns:
        who holds it; empty when nobody does.
    """
    if stuck:
        found = await presence.holder()
        return b"" if found and is_provably_dead(found) else found
    if await presence.renew_alive(post.holder, post.ttl_ms):
        return post.holder
    # Gone, but not taken: it ran out while the store was away, or was deleted by hand.
    taken_by = await presence.take_alive(post.holder, post.ttl_ms)
    if taken_by and is_provably_dead(taken_by):
        # A store that has lost what it had taken may hold our predecessor's key again.
        if not await presence.replace_alive(taken_by, post.holder, post.ttl_ms):
            return await presence.holder()
        LOG.info("alive key taken over from a dead process", extra={"holder": described(taken_by)})
        return post.holder
    return post.holder if taken_by is None else taken_by


async def follow_changes(post: Post, changed: trio.MemoryReceiveChannel[None]) -> None:
    """Advertise and tell at once what has changed."""
    async for _ in changed:
        try:
            await post.advertise()
            await post.tell()
        except STORE_AWAY as error:
            LOG.debug("not advertised yet", extra={"error": error})  # comes with a later renewal


async def follow_orders(instance_id: str, post: Post, announced: trio.MemoryReceiveChannel[bytes]) -> None:
    """Look for an order, and tell how the worker stands, whenever somebody asks for that."""
    async for message in announced:
        if message in (instance_id.encode(), ALL):
            try:
                await post.look()
                await post.tell()
            except STORE_AWAY as error:
                LOG.debug("order not read yet", extra={"error": error})  # is seen at the next renewal
