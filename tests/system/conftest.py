"""A real store for workers that are real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ffsuper.client import Client
from tests.redis_server import running_server
from tests.system.workers import Workers


@pytest.fixture
def store_url(tmp_path: Path) -> Iterator[str]:
    with running_server(tmp_path) as url:
        yield url


@pytest.fixture
def store(store_url: str) -> Iterator[redis.Redis]:
    """Provide the store itself, for what a test changes behind everybody's back."""
    with redis.Redis.from_url(store_url) as connection:
        yield connection


@pytest.fixture
def client(store_url: str) -> Iterator[Client]:
    with Client(store_url) as client:
        yield client


@pytest.fixture
def workers(tmp_path: Path, store_url: str) -> Iterator[Workers]:
    workers = Workers(tmp_path, store_url)
    yield workers
    workers.end_all()
