"""A proxy in front of a server that loses what a test wants lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio


@dataclass
class Proxy:
    """What the proxy does to the traffic.

    Attributes:
        url: where clients connect.
        lose_reply_to: given a request's bytes, tells whether to forward it and then cut the connection instead of
            passing the reply on. Reset by the proxy once it has happened.
        lose_request: likewise, but cut the connection before the request is forwarded.
        lost: requests whose replies were lost.
    """

    url: str
    lose_reply_to: Callable[[bytes], bool] | None = None
    lose_request: Callable[[bytes], bool] | None = None
    lost: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def running_proxy(folder: Path, server: Path) -> AsyncIterator[Proxy]:
    """Run a proxy from a unix socket in ``folder`` to the server's."""
    path = folder / "proxy.sock"
    proxy = Proxy(f"unix://{path}")
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    await listening.bind(str(path))
    listening.listen()

    async def serve(client: trio.SocketStream) -> None:
        upstream = await trio.open_unix_socket(str(server))
        async with client, upstream, trio.open_nursery() as nursery:
            losing = trio.Event()

            async def requests() -> None:
                async for data in client:
                    if proxy.lose_request is not None and proxy.lose_request(bytes(data)):
                        proxy.lose_request = None
                        break
                    if proxy.lose_reply_to is not None and proxy.lose_reply_to(bytes(data)):
                        proxy.lose_reply_to = None
                        proxy.lost.append(bytes(data))
                        losing.set()
                    await upstream.send_all(data)
                nursery.cancel_scope.cancel()

            async def replies() -> None:
                async for data in upstream:
                    if losing.is_set():
                        break
                    await client.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(requests)
            nursery.start_soon(replies)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
        yield proxy
        nursery.cancel_scope.cancel()
