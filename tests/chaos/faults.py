"""How each kind of fault is done, and undone when its time is over."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import psutil
import redis
import trio

from tests.chaos.network import Network
from tests.chaos.plan import Fault
from tests.chaos.supervisors import Supervisor
from tests.chaos.world import World

Doing = Callable[[World, Fault], Awaitable[None]]

in_thread = trio.to_thread.run_sync
# Steps of a supervisor's clock, which must not matter; and of the store's, which leases are measured by: forward no
# more than the margin bears.
SUPERVISOR_STEPS_S = (-86_400.0, -3_600.0, -7.0, 7.0, 3_600.0, 86_400.0)
STORE_STEPS_S = (-2.0, -0.5, 0.2)
SLOW_S = 0.25
KILL_AGAIN_S = 0.2
RELOADS = 5


def one_of(world: World, fault: Fault) -> tuple[Supervisor, Network]:
    """Return a supervisor, and its way to the store."""
    number = fault.victim % len(world.supervisors)
    return world.supervisors[number], world.networks[number]


async def signal_supervisor(world: World, fault: Fault, one: Supervisor, number: signal.Signals) -> None:
    """Send a signal; the one that was killed stays away for a while, the one that was stopped goes on after it."""
    async with world.hitting(fault.kind, one, family=True):
        one.is_to_run = number != signal.SIGKILL
        one.send(number)
        await trio.sleep(fault.lasts_s)
        one.is_to_run = True
        one.send(signal.SIGCONT)


async def supervisor_signalled(number: signal.Signals, world: World, fault: Fault) -> None:
    """Hit any supervisor."""
    await signal_supervisor(world, fault, one_of(world, fault)[0], number)


async def leader_signalled(number: signal.Signals, world: World, fault: Fault) -> None:
    """Hit the one whose engine leads."""

    def holder() -> str:
        cannot_be_asked = contextlib.suppress(redis.RedisError)
        with cannot_be_asked, world.store.primary.connection(1.0) as connection:
            return str(connection.hget("ffsuper:engine:leader", "holder"))
        return ""

    name = await in_thread(holder)
    for one in world.supervisors:
        if f"{one.name}," in name:
            await signal_supervisor(world, fault, one, number)
            return
    await supervisor_signalled(number, world, fault)


async def supervisor_reloaded(world: World, fault: Fault) -> None:
    """Have a supervisor read its configuration again, and again before it has done so."""
    one, _ = one_of(world, fault)
    async with world.hitting(fault.kind, one):
        for _ in range(RELOADS):
            if one.is_ready():  # before, this signal ends a program
                one.send(signal.SIGHUP)
            await trio.sleep(fault.lasts_s / RELOADS)


async def supervisor_quiet(world: World, fault: Fault) -> None:
    """Have a supervisor claim nothing for a while."""
    one, _ = one_of(world, fault)
    async with world.busy[one.name]:
        if one.is_ready():
            with world.doing(fault.kind, one.name):
                one.send(signal.SIGUSR1)
                await trio.sleep(fault.lasts_s)
                if one.is_ready():  # it may have begun another life, which these signals end at first
                    one.send(signal.SIGUSR2)


async def drained_without_store(world: World, fault: Fault) -> None:
    """End a supervisor in order while it cannot reach the store, which comes back later."""
    one, network = one_of(world, fault)
    async with world.hitting(fault.kind, one), trio.open_nursery() as nursery:
        one.is_to_run = False
        network.hold()
        nursery.start_soon(in_thread, one.drain)
        await trio.sleep(fault.lasts_s)
        network.let_through()
    one.is_to_run = True


async def supervisor_drained(world: World, fault: Fault) -> None:
    """End a supervisor in order, as a deployment does; it begins again at once."""
    one, _ = one_of(world, fault)
    async with world.hitting(fault.kind, one):
        one.is_to_run = False
        await in_thread(one.drain)
        await trio.sleep(fault.lasts_s)
        one.is_to_run = True


async def disk_full(world: World, fault: Fault) -> None:
    """Let a supervisor live where nothing that it logs can be written."""
    one, _ = one_of(world, fault)
    async with world.hitting(fault.kind, one):
        one.has_room_for_logs = False
        await in_thread(one.drain)
        await trio.sleep(fault.lasts_s + 2.0)
        one.has_room_for_logs = True
        await in_thread(one.drain)


async def clock_stepped(world: World, fault: Fault) -> None:
    """Set a supervisor's wall clock, and set it right again."""
    one, _ = one_of(world, fault)
    step_s = SUPERVISOR_STEPS_S[fault.victim % len(SUPERVISOR_STEPS_S)]
    with world.doing(fault.kind, one.name):
        one.clock.step(step_s)
        await trio.sleep(fault.lasts_s)
        one.clock.step(-step_s)


async def child_signalled(number: signal.Signals, world: World, fault: Fault) -> None:
    """Hit a child."""
    children = one_of(world, fault)[0].children()
    if children:
        await process_signalled(world, fault, children[fault.victim % len(children)], number, by_itself=True)


async def fork_server_signalled(number: signal.Signals, world: World, fault: Fault) -> None:
    """Hit a fork server; without it a supervisor ends, and begins again."""
    one, _ = one_of(world, fault)
    async with world.busy[one.name]:
        fork_server = one.fork_server()
        if fork_server is not None:
            one.may_end |= number is signal.SIGKILL
            await process_signalled(world, fault, fork_server, number, by_itself=False)


async def process_signalled(
    world: World, fault: Fault, process: psutil.Process, number: signal.Signals, *, by_itself: bool
) -> None:
    """Kill or stop a process for a while."""
    pids = [process.pid] if by_itself else [child.pid for child in process.children()]
    with world.doing(fault.kind, str(process.pid), frozenset(pids)), contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
        await trio.sleep(fault.lasts_s)
        process.resume()


async def store_killed(world: World, fault: Fault, *, loses: bool = False) -> None:
    """Kill the store and start it again on its data."""
    async with world.hitting_store(fault.kind) as done:
        primary = world.store.primary
        await in_thread(primary.kill)
        if loses:
            world.lost_writes.append((primary.forget_last_second(), done.at_s))
            world.ghost.forget()
            world.submitter.look_again()
        await trio.sleep(fault.lasts_s)
        await in_thread(primary.start)


async def store_stopped(world: World, fault: Fault) -> None:
    """Stop the store for a while."""
    async with world.hitting_store(fault.kind):
        world.store.primary.send(signal.SIGSTOP)
        await trio.sleep(fault.lasts_s)
        world.store.primary.send(signal.SIGCONT)


async def script_busy(world: World, fault: Fault) -> None:
    """Have somebody's script keep the store from answering."""
    async with world.hitting_store(fault.kind), trio.open_nursery() as nursery:
        ended = trio.Event()
        nursery.start_soon(hang, world, ended)
        await trio.sleep(fault.lasts_s)
        while not ended.is_set():
            await in_thread(world.store.kill_script)
            with trio.move_on_after(KILL_AGAIN_S):  # it may not have begun
                await ended.wait()


async def hang(world: World, ended: trio.Event) -> None:
    """Run a script that never ends, until somebody ends it."""
    await in_thread(world.store.hang, abandon_on_cancel=True)
    ended.set()


async def out_of_memory(world: World, fault: Fault) -> None:
    """Have the store refuse writes."""
    async with world.hitting_store(fault.kind):
        await in_thread(world.store.limit_memory, "1mb")
        await trio.sleep(fault.lasts_s)
        await in_thread(world.store.limit_memory, "0")


async def failover(world: World, fault: Fault) -> None:
    """Have the replica take over; for a while all still speak to the one that refuses to write."""
    async with world.hitting_store(fault.kind):
        ports = dict.fromkeys(world.networks, world.store.primary.port)
        for network in world.networks:
            network.target = partial(ports.__getitem__, network)
        await in_thread(world.store.fail_over)
        await trio.sleep(fault.lasts_s)
        for network in world.networks:
            network.target = world.primary_port
            network.cut()


async def library_lost(world: World, fault: Fault) -> None:
    """Drop the functions."""
    async with world.hitting_store(fault.kind):
        await in_thread(world.store.lose_libraries)


async def store_clock_stepped(world: World, fault: Fault) -> None:
    """Set the store's clock; it stays like that."""
    with world.doing(fault.kind, "store"):
        world.store.clock.step(STORE_STEPS_S[fault.victim % len(STORE_STEPS_S)])


async def network_slow(world: World, fault: Fault) -> None:
    """Delay all that is said."""
    one, network = one_of(world, fault)
    with world.doing(fault.kind, one.name):
        network.slow_s = SLOW_S
        await trio.sleep(fault.lasts_s)
        network.slow_s = 0.0


async def network_cut(world: World, fault: Fault) -> None:
    """Reset all connections."""
    one, network = one_of(world, fault)
    with world.doing(fault.kind, one.name):
        network.cut()


async def network_half_closed(world: World, fault: Fault) -> None:
    """End one direction of all connections, and the other one later."""
    one, network = one_of(world, fault)
    with world.doing(fault.kind, one.name):
        await network.half_close(towards_store=fault.victim % 2 == 0)
        await trio.sleep(fault.lasts_s)
        network.cut()


async def network_swallows(world: World, fault: Fault) -> None:
    """Carry out what is asked for, and lose the answers."""
    one, network = one_of(world, fault)
    with world.doing(fault.kind, one.name):
        network.swallows = True
        await trio.sleep(fault.lasts_s)
        network.cut()
        network.swallows = False


async def network_tears(world: World, fault: Fault) -> None:
    """Cut answers in their midst, and connections with them."""
    one, network = one_of(world, fault)
    with world.doing(fault.kind, one.name):
        network.tears = True
        await trio.sleep(0.5)
        network.tears = False


async def network_away(world: World, fault: Fault) -> None:
    """Hold all that is said; it arrives afterwards."""
    one, network = one_of(world, fault)
    with world.doing(fault.kind, one.name):
        network.hold()
        await trio.sleep(fault.lasts_s)
        network.let_through()


async def submitter_cut_off(world: World, fault: Fault) -> None:
    """Lose answers to those who submit."""
    network = world.submitters_network
    with world.doing(fault.kind, "submitters"):
        network.swallows = True
        await trio.sleep(fault.lasts_s)
        network.cut()
        network.swallows = False


DOING: dict[str, Doing] = {
    "child killed": partial(child_signalled, signal.SIGKILL),
    "child stopped": partial(child_signalled, signal.SIGSTOP),
    "fork server killed": partial(fork_server_signalled, signal.SIGKILL),
    "fork server stopped": partial(fork_server_signalled, signal.SIGSTOP),
    "supervisor killed": partial(supervisor_signalled, signal.SIGKILL),
    "supervisor stopped": partial(supervisor_signalled, signal.SIGSTOP),
    "supervisor drained": supervisor_drained,
    "supervisor drained without its store": drained_without_store,
    "supervisor quiet": supervisor_quiet,
    "supervisor reloaded": supervisor_reloaded,
    "engine leader killed": partial(leader_signalled, signal.SIGKILL),
    "engine leader stopped": partial(leader_signalled, signal.SIGSTOP),
    "store killed": store_killed,
    "store killed, its last second lost": partial(store_killed, loses=True),
    "store stopped": store_stopped,
    "script busy": script_busy,
    "out of memory": out_of_memory,
    "failover": failover,
    "library lost": library_lost,
    "network slow": network_slow,
    "network cut": network_cut,
    "network half closed": network_half_closed,
    "network swallows replies": network_swallows,
    "network tears replies": network_tears,
    "network away": network_away,
    "submitter cut off": submitter_cut_off,
    "disk full for logs": disk_full,
    "clock step of a supervisor": clock_stepped,
    "clock step of the store": store_clock_stepped,
}
