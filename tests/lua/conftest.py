"""A real server with our library, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ffsuper.store import libraries
from tests.lua.world import World
from tests.redis_server import running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    folder: Path = tmp_path_factory.mktemp("redis")
    with running_server(folder) as url, redis.Redis.from_url(url, protocol=2) as client:
        for name in (libraries.FLOWFABRIC, libraries.FFSUPER):
            client.function_load(libraries.assemble(name), replace=True)
        yield client


@pytest.fixture
def world(server: redis.Redis) -> World:
    server.flushall()
    return World(server)


@pytest.fixture
def restricted(server: redis.Redis, world: World) -> Iterator[World]:
    """Connect as a user who may use no channel."""
    world.command("ACL", "SETUSER", "mute", "on", "nopass", "~*", "+@all", "resetchannels")
    path = server.connection_pool.connection_kwargs["path"]
    with redis.Redis(unix_socket_path=path, protocol=2, username="mute", password="any") as client:
        yield World(client)
    world.command("ACL", "DELUSER", "mute")
