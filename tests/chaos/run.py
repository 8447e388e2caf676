"""One run: a world, faults by plan, and what is left of it in the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import trio

from ffsuper.client import Client
from ffsuper.clients import Execution
from ffsuper.errors import ExecutionNotFoundError
from ffsuper.messages import FINAL_STATES, ExecutionId
from tests.chaos import history
from tests.chaos.checks import Facts
from tests.chaos.clocks import can_be_stepped
from tests.chaos.faults import DOING, in_thread
from tests.chaos.plan import KINDS, Fault, make_plan
from tests.chaos.supervisors import left_behind
from tests.chaos.world import SUBMITTERS, World, open_direct_client, open_world

LOG = logging.getLogger(__name__)

# After the last fault all ends: what has piled up, retries, delays, leases that run out. When nothing has ended for
# so long, on a machine that is busy, nothing will.
SETTLE_S = 60.0
LOOK_S = 0.2
# What is empty once nothing runs and all have gone. A former holder's list may have entries, as the protocol's has.
EMPTY_IN_THE_END = (
    "ff:exec:*:lease:current",
    "ff:exec:*:claim_grant",
    "ff:idx:*:lease_expiry",
    "ff:idx:*:lane:*:active",
    "ff:idx:*:lane:*:delayed",
    "ff:idx:*:lane:*:suspended",
    "ff:idx:*:attempt_timeout",
    "ff:idx:*:suspension_timeout",
    "ff:worker:*:alive",
    "ffsuper:worker:*:status",
)


def kinds_here() -> list[str]:
    """Return the kinds of faults that this machine can have."""
    return [kind for kind in KINDS if can_be_stepped() or not kind.startswith("clock step")]


async def run(
    folder: Path, seed: int, seconds: float, *, supervisors: int = 3, rate: float = 12.0, kinds: Sequence[str] = ()
) -> Facts:
    """Make a world, have faults done to it for so long, let it settle, and return what is left.

    Args:
        folder: for all that is written; it must not be there.
        rate: submissions a second.
        kinds: of faults; all that are possible when empty.
    """
    plan = make_plan(seed, seconds, list(kinds) or kinds_here())
    async with open_world(folder, seed, supervisors, rate) as world:
        submitter, port = world.submitter, world.submitters_network.port
        with await in_thread(submitter.open_client, port) as client:
            async with trio.open_nursery() as attending:
                attending.start_soon(submitter.attend, port)
                attending.start_soon(world.ghost.run, client, lambda: list(submitter.acknowledged), seed)
                async with trio.open_nursery() as nursery:
                    for number in range(SUBMITTERS):
                        nursery.start_soon(submitter.run, port, seconds, number, SUBMITTERS)
                    nursery.start_soon(do, world, plan)
                LOG.info("settling: %d submitted, %d faults", len(submitter.acknowledged), len(world.faults))
                world.mend()
                await world.wait_ready()
                await settle(world)
                attending.cancel_scope.cancel()
        return await leave(world)


async def do(world: World, plan: Sequence[Fault]) -> None:
    """Do the faults of a plan, each at its time, some of them while others last."""
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for fault in plan:
            await trio.sleep_until(began_s + fault.at_s)
            LOG.info("%6.1f s: %s, for %.1f s", fault.at_s, fault.kind, fault.lasts_s)
            nursery.start_soon(DOING[fault.kind], world, fault)


async def settle(world: World) -> None:
    """Wait until everything has ended, or nothing more ends."""
    everything = [*world.submitter.acknowledged, *world.submitter.in_doubt]
    least = len(everything) + 1
    with trio.move_on_after(SETTLE_S) as patience, open_direct_client(world) as client:
        while least:
            states = await in_thread(client.states, everything)
            still_open = sum(state is not None and state not in FINAL_STATES for state in states)
            if still_open < least:
                least, patience.deadline = still_open, trio.current_time() + SETTLE_S
            await trio.sleep(LOOK_S)


async def leave(world: World) -> Facts:
    """End all supervisors in order; return what there is then."""
    descriptors = {one.name: (max(one.descriptors), one.open_descriptors()) for one in world.supervisors}
    for one in world.supervisors:
        one.is_to_run = False
    drained = {one.name: await in_thread(one.drain) for one in world.supervisors}
    submitter = world.submitter
    everything = [*submitter.acknowledged, *submitter.in_doubt]
    with open_direct_client(world) as client:
        executions = {one: await in_thread(show, client, one) for one in everything}
        completed = [one for one, found in executions.items() if found is not None and found.state == "completed"]
        results = dict(zip(completed, await in_thread(client.results, completed), strict=True))
        streaming = [one.id for one in submitter.acknowledged.values() if one.does == "stream" and one.id in results]
        frames = {one: await in_thread(read_frames, client, one) for one in streaming}
    return Facts(
        history.read(world.folder / "history"),
        submitter.acknowledged,
        executions,
        results,
        frames,
        world.faults,
        world.lost_writes,
        world.ghost.refused,
        world.ghost.taken,
        [one for supervisor in world.supervisors for one in supervisor.exits],
        drained,
        descriptors,
        left_behind(world.folder),
        await in_thread(keys_left, world),
    )


def show(client: Client, execution: ExecutionId) -> Execution | None:
    """Return an execution; None when there is none."""
    try:
        return client.show(execution)
    except ExecutionNotFoundError:
        return None


def read_frames(client: Client, execution: ExecutionId) -> list[tuple[int, bytes]]:
    """Return the frames of all attempts."""
    return [(frame.attempt_index, frame.payload) for frame in client.tail(execution, live=False)]


def keys_left(world: World) -> list[str]:
    """Return the keys that should not be there any more."""
    with world.store.primary.connection() as connection:
        names = [name.decode() for name in connection.scan_iter(count=10_000)]
    return [name for name in names if any(fnmatch(name, pattern) for pattern in EMPTY_IN_THE_END)]
