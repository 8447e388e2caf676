"""A real store for the sweeps whose work is in the store's keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from tests.redis_server import running_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def settings(server_url: str) -> StoreConfig:
    return StoreConfig(url=server_url, timeout_s=5.0)


@pytest.fixture
def store(server_url: str) -> Iterator[redis.Redis]:
    """Provide the store itself, empty but for the libraries."""
    with redis.Redis.from_url(server_url) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def client(store: redis.Redis, settings: StoreConfig) -> Iterator[Client]:
    with Client(settings) as client:
        yield client
