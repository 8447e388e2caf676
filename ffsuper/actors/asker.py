"""Asks a FlowFabric server for work, in place of looking for it in the store.

A grant keeps its execution from all other workers until it is used or lapses, so the server is asked only while a
slot waits for the answer; our own server is told for how long it may wait for something to come. Claimers say how
many slots wait; a granted candidate that is handed over is one less. When a reclaimed execution fills the slot while
the server is being asked, the grant waits for the next slot, or lapses.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Sequence

import trio
from trio_util import move_on_when

from ffsuper.channels import Candidates, Demand
from ffsuper.errors import ServerAwayError, ServerError
from ffsuper.grants import Grants
from ffsuper.messages import Candidate, LaneId
from ffsuper.sansio.backoff import Backoff
from ffsuper.sansio.pulse import Pulses

LOG = logging.getLogger(__name__)

AWAY = Backoff(first_s=0.05, longest_s=2.0)
# For so long our own server waits for something to come before it says that there is nothing.
LONGEST_WAIT_S = 20.0
# When nothing more is wanted, an answer that is on its way is waited for.
ANSWER_S = 0.25
# Somebody has to mend something first.
REFUSED = Backoff(first_s=1.0, longest_s=30.0)


async def run(
    grants: Grants,
    lanes: Sequence[LaneId],
    poll_interval_s: float,
    demands: trio.MemoryReceiveChannel[Demand],
    candidates: trio.MemorySendChannel[Candidates],
    retired: trio.Event,
    now_s: Callable[[], float],
    pulses: Pulses,
) -> None:
    """Ask for one execution at a time, lanes in turn, while any are wanted; pause when no lane had one.

    Returns when ``demands`` or ``candidates`` closes, or soon after ``retired``: what is being granted just then is
    still handed over, for nobody else could have it before the grant lapses.
    """
    patience = Patience()
    # With several lanes none is waited at: there might be something in the others.
    wait_s = LONGEST_WAIT_S if len(lanes) == 1 else 0.0
    turns = itertools.cycle(lanes)
    fruitless = 0
    wanted = 0
    async with demands, candidates, pulses.open("asker") as pulse:
        while True:
            try:
                with pulse.resting:
                    async with move_on_when(retired.wait) as waiting:
                        wanted = await wait_wanted(demands, wanted)
                if waiting.cancelled_caught or retired.is_set():
                    return
                began_s = trio.current_time()
                with pulse.resting:
                    found, change = await ask(grants, next(turns), wait_s, demands, retired)
                wanted += change
                patience.over()
                if found is not None:
                    fruitless = 0
                    with pulse.resting:
                        await candidates.send(Candidates((found,), now_s()))
                    wanted -= 1
                    continue
            except (trio.EndOfChannel, trio.BrokenResourceError):
                return
            except ServerError as error:
                with pulse.resting:
                    async with move_on_when(retired.wait):
                        await patience.wait(error)
                continue
            fruitless += 1
            if fruitless >= len(lanes):
                fruitless = 0
                pause_s = poll_interval_s * (0.75 + 0.5 * random.random())
                with pulse.resting:
                    async with move_on_when(retired.wait):
                        await trio.sleep_until(max(trio.current_time(), began_s + pause_s))


async def ask(
    grants: Grants,
    lane: LaneId,
    wait_s: float,
    demands: trio.MemoryReceiveChannel[Demand],
    retired: trio.Event,
) -> tuple[Candidate | None, int]:
    """Ask the server; return what it has, and by how many more or fewer are wanted than before.

    Raises:
        ServerError: see ``Grants.ask``.
        trio.EndOfChannel: nothing will be wanted any more; the answer was not waited for, or only a moment.
    """
    found: Candidate | None = None
    error: ServerError | None = None
    change, is_answered = 0, False
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            nonlocal change
            async for demand in demands:
                change += demand.change
            nursery.cancel_scope.cancel()

        async def retire() -> None:
            await retired.wait()
            await trio.sleep(ANSWER_S)
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        nursery.start_soon(retire)
        try:
            found = await grants.ask(lane, wait_s)
        except ServerError as caught:
            error = caught
        is_answered = True
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    if not is_answered:
        raise trio.EndOfChannel
    return found, change


async def wait_wanted(demands: trio.MemoryReceiveChannel[Demand], wanted: int) -> int:
    """Take in what claimers have said; return how many are wanted, once it is at least one.

    Raises:
        trio.EndOfChannel: nothing will be wanted any more.
    """
    while True:
        try:
            wanted += demands.receive_nowait().change
        except trio.WouldBlock:
            if wanted > 0:
                return wanted
            wanted += (await demands.receive()).change


class Patience:
    """Pauses while the server does not help, longer each time.

    Logs once when it goes away, in whatever ways it is away; and each refusal that is not the last one again.
    """

    def __init__(self) -> None:
        self._last: ServerError | None = None
        self._backoff = AWAY

    async def wait(self, error: ServerError) -> None:
        """Pause before the next try."""
        is_away = isinstance(error, ServerAwayError)
        is_new = type(error) is not type(self._last)
        if is_new:
            self._backoff = AWAY if is_away else REFUSED
        if is_new and is_away:
            LOG.warning("server away", extra={"error": error})
        elif not is_away and (is_new or str(error) != str(self._last)):
            LOG.error("server refuses", extra={"error": error})
        self._last = error
        pause_s = self._backoff.pause_s(random.random())
        self._backoff = self._backoff.failed()
        await trio.sleep(pause_s)

    def over(self) -> None:
        """Note that the server has answered."""
        if self._last is not None:
            LOG.info("server back", extra={"tries": self._backoff.tries})
            self._last = None
