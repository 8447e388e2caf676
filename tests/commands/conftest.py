"""A store that the subcommands find by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.redis_server import running_server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Empty the store that the commands use."""
    monkeypatch.setenv("FFSUPER_STORE_URL", url)
    monkeypatch.setenv("NO_COLOR", "1")
    with redis.Redis.from_url(url) as store:
        store.flushall()
        yield store
