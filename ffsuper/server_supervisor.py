"""``ffsuper server``: the HTTP interface and the scheduler, and an engine where ``[engine] enabled`` says so."""

from __future__ import annotations

import logging
import signal
from typing import Any

import hypercorn.config
import hypercorn.trio
import trio

from ffsuper import engine_supervisor
from ffsuper.config import Config
from ffsuper.errors import ConfigError
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.server.application import application
from ffsuper.server.service import open_service
from ffsuper.store.store import open_engine_store

LOG = logging.getLogger(__name__)

# Open requests may take so long after SIGTERM.
GRACE_S = 10.0


async def run(config: Config, counts: PartitionCounts) -> None:
    """Serve until SIGTERM or SIGINT; then let open requests finish.

    Raises:
        ConfigError: nobody can listen at that address.
    """
    stopping = trio.Event()
    async with (
        open_service(config.server, config.store, counts, stopping) as service,
        open_engine_store(config.store, counts) as engine_store,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(set_at_signal, stopping)
        if config.engine.enabled:
            nursery.start_soon(engine_supervisor.lead, config, counts, engine_store)
        if not config.server.token:
            LOG.warning("no token: anybody at the port may do anything", extra={"listen": config.server.listen})
        serving = hypercorn.config.Config()
        serving.bind = [config.server.listen]
        serving.graceful_timeout = GRACE_S
        serving.accesslog = None
        serving.errorlog = logging.getLogger("hypercorn")
        LOG.info("ready", extra={"listen": config.server.listen, "partitions": counts.flow})
        try_to_listen(serving)
        app: Any = application(service)
        await hypercorn.trio.serve(app, serving, shutdown_trigger=stopping.wait)
        nursery.cancel_scope.cancel()


def try_to_listen(serving: hypercorn.config.Config) -> None:
    """Find out whether somebody can listen there.

    Raises:
        ConfigError: nobody can.
    """
    try:
        for one in serving.create_sockets().insecure_sockets:
            one.close()
    except OSError as error:
        raise ConfigError([f"[server] listen: {serving.bind[0]}: {error.strerror}"]) from None


async def set_at_signal(stopping: trio.Event) -> None:
    """Tell that it is time to stop."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            LOG.info("stopping", extra={"signal": signal.Signals(number).name})
            stopping.set()
