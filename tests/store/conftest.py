"""Servers for the store's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ffsuper.config import StoreConfig
from tests.redis_server import running_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def settings(server_url: str) -> StoreConfig:
    return StoreConfig(url=server_url, timeout_s=5.0)
