"""``ffsuper server``: the HTTP interface and the scheduler, and an engine where ``[engine] enabled`` says so."""

from __future__ import annotations

import gc
import logging
import resource
import socket
from functools import partial
from typing import Any

import hypercorn.config
import hypercorn.trio
import trio

from ffsuper import engine_supervisor
from ffsuper.actors import library_watcher, watchdog
from ffsuper.config import Config, ServerConfig
from ffsuper.config_rules import is_loopback
from ffsuper.errors import ConfigError
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.server.application import application
from ffsuper.server.service import open_service
from ffsuper.store.store import open_engine_store, require_libraries
from ffsuper.systemd import Notifier

LOG = logging.getLogger(__name__)

# Open requests may take so long after SIGTERM.
GRACE_S = 10.0
# A connection without a request is kept for so long, also one whose first request does not come to an end. Hypercorn
# keeps one for this time even when the other side has closed it.
UNUSED_S = 5.0
STALLED_S = 30.0
BACKLOG = 4_096


async def run(config: Config, counts: PartitionCounts, notifier: Notifier) -> None:
    """Serve until SIGTERM or SIGINT; then let open requests finish.

    Raises:
        ConfigError: nobody can listen at that address.
        StoreUnsuitableError: others have replaced the libraries by some that will not do.
    """
    allow_many_connections()
    stopping = trio.Event()
    standing = engine_supervisor.EngineStanding(config.status.stuck_after_s)

    def sentence() -> str:
        where = f"Listening at {config.server.listen}"
        return f"{where}. {standing.sentence()}" if config.engine.enabled else where

    async with (
        open_service(config.server, config.store, counts, stopping) as service,
        open_engine_store(config.store, counts) as engine_store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(set_at_signal, stopping, notifier)
        if config.engine.enabled:
            nursery.start_soon(engine_supervisor.lead, config, counts, engine_store, standing.pulses, standing.hear)
        warn_of_exposure(config.server)
        settings = http_settings(listen(config.server.listen))
        notifier.ready(sentence())
        LOG.info("ready", extra={"listen": config.server.listen, "partitions": counts.flow})
        nursery.start_soon(watchdog.run, notifier, standing.stuck, sentence)
        nursery.start_soon(library_watcher.run, partial(require_libraries, config.store))
        app: Any = application(service)
        # What is there by now stays; going through it again and again took 60 ms at a time, several times a second.
        gc.collect()
        gc.freeze()
        await hypercorn.trio.serve(app, settings, shutdown_trigger=stopping.wait)
        nursery.cancel_scope.cancel()


def warn_of_exposure(server: ServerConfig) -> None:
    """Log what others may do who reach the port."""
    told = {"listen": server.listen}
    if not server.token:
        LOG.warning("no token: anybody at the port may do anything", extra=told)
    if not is_loopback(server.listen):
        LOG.warning("no TLS: tokens and payloads can be read on their way from other machines", extra=told)


def listen(address: str) -> socket.socket:
    """Listen at an address.

    Raises:
        ConfigError: nobody can.
    """
    settings = hypercorn.config.Config()
    settings.bind = [address]
    try:
        (listener,) = settings.create_sockets().insecure_sockets
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigError([f"[server] listen: {address}: {error.strerror}"]) from None
    # Accepted connections have it too: who takes nothing of an answer for so long is given up.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_S * 1000))
    return listener


def http_settings(listener: socket.socket) -> hypercorn.config.Config:
    """Return how connections are served; the socket is taken over."""
    settings = hypercorn.config.Config()
    settings.bind = [f"fd://{listener.detach()}"]
    settings.backlog = BACKLOG
    settings.graceful_timeout = GRACE_S
    settings.keep_alive_timeout = UNUSED_S
    settings.keep_alive_max_requests = 1_000_000
    settings.accesslog = None
    settings.errorlog = logging.getLogger("hypercorn")
    return settings


def allow_many_connections() -> None:
    """Raise the limit of open files as far as it goes: a connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def set_at_signal(stopping: trio.Event, notifier: Notifier, task_status: trio.TaskStatus[None]) -> None:
    """Tell that it is time to stop; started when no signal is lost any more."""
    with trio.open_signal_receiver(*engine_supervisor.SIGNALS) as signals:
        task_status.started()
        while True:
            await engine_supervisor.wait_told_to_end(signals)
            notifier.stopping("Finishing what was asked for")
            stopping.set()
