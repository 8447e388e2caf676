"""All that there is in a run: store, network, supervisors, submitters. It begins, has faults done to it, and ends."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ffsuper.client import Client
from ffsuper.clock import boottime_s
from ffsuper.config import StoreConfig
from tests.chaos.clocks import Clock
from tests.chaos.ghost import Ghost
from tests.chaos.network import Network
from tests.chaos.store import LOOK_S, Store
from tests.chaos.submitter import Submitter
from tests.chaos.supervisors import Supervisor

SUBMITTERS = 3
# As systemd does: RestartSec.
RESTART_S = 0.2
READY_S = 60.0


@dataclass
class Done:
    """A fault that was done.

    Attributes:
        at_s: on the clock of the history. ``mended_s``: when it was over.
        on: what it was done to.
        pids: processes that died of it, or were to.
    """

    kind: str
    at_s: float
    on: str
    mended_s: float = 0.0
    pids: frozenset[int] = frozenset()


@dataclass
class World:
    """What there is.

    Attributes:
        faults: those that were done.
        lost_writes: from when to when the store has lost what it had taken.
        store_busy: held by what is being done to the store.
        busy: held by what is being done to each supervisor.
    """

    folder: Path
    store: Store
    networks: list[Network]
    supervisors: list[Supervisor]
    submitter: Submitter
    ghost: Ghost = field(default_factory=Ghost)
    faults: list[Done] = field(default_factory=list)
    lost_writes: list[tuple[float, float]] = field(default_factory=list)
    store_busy: trio.Lock = field(default_factory=trio.Lock)
    busy: dict[str, trio.Lock] = field(default_factory=dict)

    @property
    def submitters_network(self) -> Network:
        """The way of all that are no supervisors."""
        return self.networks[-1]

    def primary_port(self) -> int:
        """Return the port of who takes writes now."""
        return self.store.primary.port

    @contextmanager
    def doing(self, kind: str, on: str, pids: frozenset[int] = frozenset()) -> Iterator[Done]:
        """Note when a fault begins and is over."""
        done = Done(kind, boottime_s(), on, pids=pids)
        self.faults.append(done)
        yield done
        done.mended_s = boottime_s()

    @asynccontextmanager
    async def hitting(self, kind: str, one: Supervisor, *, family: bool = False) -> AsyncIterator[Done]:
        """Do something to a supervisor, when nothing else is being done to it.

        Args:
            family: its children die of it, or may.
        """
        async with self.busy[one.name]:
            pids = frozenset(child.pid for child in one.children()) if family else frozenset[int]()
            with self.doing(kind, one.name, pids) as done:
                yield done

    @asynccontextmanager
    async def hitting_store(self, kind: str) -> AsyncIterator[Done]:
        """Do something to the store, when nothing else is being done to it."""
        async with self.store_busy:
            with self.doing(kind, "store") as done:
                yield done

    async def keep_supervisors(self) -> None:
        """Start again what has ended, until cancelled."""
        ready: set[tuple[str, int]] = set()
        while True:
            for one in self.supervisors:
                one.note_exit()
                if one.process is None and one.is_to_run:
                    await trio.sleep(RESTART_S)
                    one.start()
                life = (one.name, one.lives)
                if life not in ready and one.is_ready():
                    ready.add(life)
                    one.descriptors.append(one.open_descriptors())
            await trio.sleep(RESTART_S)

    async def watch_store(self) -> None:
        """Note how much the store has written, until cancelled."""
        while True:
            self.store.primary.note_size()
            await trio.sleep(LOOK_S)

    async def wait_ready(self) -> None:
        """Wait until all supervisors work."""
        with trio.fail_after(READY_S):
            for one in self.supervisors:
                while one.process is None or not one.is_ready():  # noqa: ASYNC110 -- a process, which tells by its log
                    await trio.sleep(RESTART_S)

    def mend(self) -> None:
        """Undo whatever may still be wrong, so that all can end."""
        for network in self.networks:
            network.slow_s, network.swallows, network.tears = 0.0, False, False
            network.let_through()
        for one in self.supervisors:
            one.send(signal.SIGCONT)
            for process in (one.fork_server(), *one.children()):
                if process is not None:
                    process.resume()


@asynccontextmanager
async def open_world(folder: Path, seed: int, supervisors: int, rate: float) -> AsyncIterator[World]:
    """Make a world in a folder, and leave nothing of it running."""
    (folder / "locks").mkdir(parents=True)
    (folder / "history").touch()
    store = await trio.to_thread.run_sync(Store, folder)
    world = World(folder, store, [], [], Submitter(folder, seed, rate))
    try:
        async with trio.open_nursery() as nursery:
            for number in range(supervisors + 1):
                network = Network(world.primary_port, seed + number)
                await nursery.start(network.run)
                world.networks.append(network)
            run = f"chaos-{os.getpid()}"
            for number, network in enumerate(world.networks[:-1], 1):
                name = f"{run}-{number}"
                one = Supervisor(name, folder, network.port, Clock(folder, name))
                world.supervisors.append(one)
                world.busy[name] = trio.Lock()
            nursery.start_soon(world.watch_store)
            nursery.start_soon(world.keep_supervisors)
            await world.wait_ready()
            yield world
            nursery.cancel_scope.cancel()
    finally:
        for one in world.supervisors:
            if one.process is not None:
                one.process.kill()
                one.process.wait()
        store.end()


def open_direct_client(world: World) -> Client:
    """Return a client that nothing is in the way of, to whoever takes writes now."""
    return Client(StoreConfig(url=f"redis://127.0.0.1:{world.store.primary.port}/0"))
