"""The port that the worker tells its health at, and who reaches it, or that of the server."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from ffsuper.commands.checks.finding import Finding, problem, warning
from ffsuper.config import Config, ServerConfig
from ffsuper.config_rules import is_loopback

PLACE = "[status] listen"


def look(config: Config, file: Path) -> Iterator[Finding]:
    """Yield what keeps the worker from listening.

    Args:
        file: the configuration, by which a worker that runs with it already is known.
    """
    listen = config.status.listen
    if listen in ("", "auto"):
        return
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        family, *_, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        socket.create_server((address[0], int(port)), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield from in_use(listen, int(port), file)
        else:
            yield problem(
                f"{PLACE}: nobody can listen at {listen}: {error.strerror}: name an address of this machine"
            )


def exposed(config: Config) -> Iterator[Finding]:
    """Yield what others may do to what is not for this machine alone."""
    yield from exposed_health(config.status.listen)
    yield from exposed_server(config.server)


def exposed_health(listen: str) -> Iterator[Finding]:
    """Yield who may read what a worker tells of itself."""
    if listen in ("", "auto") or is_loopback(listen):
        return
    yield warning(
        f"{PLACE}: other machines may reach {listen}, and without a token anybody there may read health and metrics, "
        "lanes and kinds among them: listen at 127.0.0.1, or use a network of your own"
    )


def exposed_server(server: ServerConfig) -> Iterator[Finding]:
    """Yield what others may do to a server."""
    if is_loopback(server.listen):
        return
    place = f"[server] listen: other machines may reach {server.listen}"
    if not server.token:
        yield warning(f"{place}, and without a token anybody there may do anything: name a token_file")
    yield warning(
        f"{place}, and without TLS tokens and payloads can be read on their way: listen at 127.0.0.1, behind a proxy "
        "that ends TLS, or use a network of your own"
    )


def in_use(listen: str, port: int, file: Path) -> Iterator[Finding]:
    """Yield who else has the port, unless that is a worker with this configuration."""
    holder = holder_of(port)
    if holder is None:
        yield warning(f"{PLACE}: {listen} is in use: name another port, unless this very worker has it")
    elif str(file.resolve()) not in (str(Path(holder.cwd(), word).resolve()) for word in holder.cmdline()):
        yield problem(f"{PLACE}: process {holder.pid} ({holder.name()}) has {listen}: name another port, or stop it")


def holder_of(port: int) -> psutil.Process | None:
    """Return the process that listens at a port; None when we may not know."""
    try:
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr[1:2] == (port,) and one.pid is not None:
                process = psutil.Process(one.pid)
                process.cwd(), process.cmdline()  # who may not see these knows too little
                return process
    except psutil.Error:
        pass
    return None
