"""Flows as their makers see them, on a real server without workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from ffsuper.client import Client
from ffsuper.errors import InvalidRequestError
from ffsuper.flows import GONE
from ffsuper.messages import ExecutionId
from ffsuper.store.keys import ExecutionKeys
from tests.redis_server import running_server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def delete(url: str, execution_id: ExecutionId) -> None:
    """Let an execution be gone, as retention does."""
    with redis.Redis.from_url(url) as server:
        server.delete(ExecutionKeys.of(execution_id).core)


def test_waiting_for_a_flow_ends_although_members_that_had_ended_are_deleted(client: Client, url: str) -> None:
    flow = client.create_flow()
    gone, other = flow.add("job"), flow.add("job")
    for one in (gone, other):
        client.cancel(one)
    delete(url, gone)
    shown = flow.wait(5)
    assert (shown.state, dict(shown.members)) == ("failed", {gone: GONE, other: "cancelled"})


def test_a_flow_of_which_nothing_is_left_has_ended(client: Client, url: str) -> None:
    flow = client.create_flow()
    only = flow.add("job")
    delete(url, only)
    assert flow.wait(5).is_final


def test_cancelling_a_flow_reaches_all_members_although_some_are_deleted(client: Client, url: str) -> None:
    flow = client.create_flow()
    members = [flow.add("job") for _ in range(6)]
    for one in members[::2]:
        delete(url, one)
    shown = flow.cancel()
    assert [shown.members[one] for one in members] == [GONE, "cancelled"] * 3


def test_a_member_that_would_wait_for_too_many_is_refused_before_anything_is_sent(client: Client) -> None:
    flow = client.create_flow()
    others = [f"{flow.keys.tag}:00000000-0000-4000-8000-{number:012}" for number in range(1_001)]
    with pytest.raises(InvalidRequestError, match="1000 others at most, got 1001"):
        flow.add("job", after=others)
