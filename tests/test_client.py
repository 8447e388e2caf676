"""The client against a real server and library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from ffsuper.client import Client
from ffsuper.clients import due_ms
from ffsuper.commands.exits import exit_of
from ffsuper.config import StoreConfig
from ffsuper.errors import (
    ExecutionNotFoundError,
    InvalidRequestError,
    LeaseLostError,
    RefusedError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from ffsuper.store.libraries import FFSUPER, FLOWFABRIC
from ffsuper.store.submissions import PAYLOAD_LIMIT_BYTES
from tests.redis_server import running_server
from tests.store.older import library_of

UNKNOWN = "{fp:1}:00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with redis.Redis.from_url(url) as server:
        server.flushall()
        server.function_flush()
    with Client(url) as client:
        yield client


def test_the_first_client_of_an_empty_store_makes_it_ready(client: Client, url: str) -> None:
    with redis.Redis.from_url(url) as server:
        assert server.hgetall("ff:config:partitions") == {
            b"num_flow_partitions": b"256",
            b"num_budget_partitions": b"32",
            b"num_quota_partitions": b"32",
        }


def test_a_submitted_execution_is_shown_with_all_it_was_given(client: Client) -> None:
    execution_id = client.submit(
        "thumbnail",
        {"url": "a.png"},
        lane="bulk",
        namespace="customer",
        priority=7,
        tags={"color": "blue"},
        policy={"retry_policy": {"max_retries": 2}},
    )
    shown = client.show(execution_id)
    assert (shown.state, shown.kind, shown.lane, shown.tags) == ("waiting", "thumbnail", "bulk", {"color": "blue"})
    assert (shown.record["priority"], shown.record["namespace"], shown.attempts) == ("7", "customer", [])
    assert not shown.is_final


def test_bytes_are_submitted_as_they_are_and_anything_else_as_json(client: Client, url: str) -> None:
    raw = client.submit("job", bytes(range(256)))
    typed = client.submit("job", {"a": [1, None]})
    with redis.Redis.from_url(url) as server:
        tag = raw[: raw.index("}") + 1]
        assert server.get(f"ff:exec:{tag}:{raw}:payload") == bytes(range(256))
        assert server.get(f"ff:exec:{tag}:{typed}:payload") == b'{"a": [1, null]}'


def test_a_delayed_execution_waits_for_its_time(client: Client) -> None:
    execution_id = client.submit("job", delay=3600)
    assert client.state(execution_id) == "delayed"
    assert client.depth("default")["delayed"] == 1


@pytest.mark.parametrize(
    ("delay", "due"),
    [
        (1.5, 101_500),
        (timedelta(minutes=1), 160_000),
        (datetime(2026, 1, 1, tzinfo=UTC), 1_767_225_600_000),
    ],
)
def test_delays_are_seconds_spans_or_times(delay: float | timedelta | datetime, due: int) -> None:
    assert due_ms(delay, now_s=lambda: 100.0) == due


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="names no time zone"):
        due_ms(datetime(2026, 1, 1))  # noqa: DTZ001


def test_an_idempotency_key_submits_once(client: Client) -> None:
    first = client.submit("job", idempotency_key="order-7")
    assert client.submit("job", idempotency_key="order-7") == first
    assert client.submit("job", idempotency_key="order-8") != first
    assert client.depth("default")["eligible"] == 2


def test_a_cancelled_execution_says_so_and_cannot_be_cancelled_again(client: Client) -> None:
    execution_id = client.submit("job")
    cancelled = client.cancel(execution_id, "wrong customer")
    assert (cancelled.state, cancelled.record["cancellation_reason"]) == ("cancelled", "wrong customer")
    with pytest.raises(LeaseLostError, match="execution_not_active"):
        client.cancel(execution_id)


def test_a_delayed_execution_can_be_cancelled(client: Client) -> None:
    execution_id = client.submit("job", delay=3600)
    assert client.cancel(execution_id).state == "cancelled"
    assert client.depth("default") == dict.fromkeys(client.depth("default"), 0) | {"terminal": 1}


def test_waiting_ends_with_the_execution(client: Client) -> None:
    execution_id = client.submit("job")
    cancel = threading.Thread(target=client.cancel, args=(execution_id,))
    cancel.start()
    assert client.wait(execution_id, timeout_s=10).state == "cancelled"
    cancel.join()


def test_waiting_too_long_says_in_which_state_it_still_is(client: Client) -> None:
    execution_id = client.submit("job")
    with pytest.raises(TimeoutError, match=r"is still waiting after 0\.01 s"):
        client.wait(execution_id, timeout_s=0.01)


def test_a_lane_is_listed_in_the_order_in_which_it_is_claimed(client: Client) -> None:
    low, high = client.submit("job", priority=1), client.submit("job", priority=9)
    assert [one.id for one in client.list_lane("default")] == [high, low]
    assert [one.id for one in client.list_lane("default", limit=1)] == [high]
    assert client.list_lane("default", "terminal") == []


@pytest.mark.parametrize("method", ["show", "state", "cancel", "wait", "replay"])
def test_an_unknown_execution_is_not_found(client: Client, method: str) -> None:
    with pytest.raises(ExecutionNotFoundError):
        getattr(client, method)(UNKNOWN)


def test_an_ended_execution_runs_again(client: Client) -> None:
    execution_id = client.submit("job")
    with pytest.raises(RefusedError, match="execution_not_terminal"):
        client.replay(execution_id)
    client.cancel(execution_id)
    assert client.replay(execution_id) == "waiting"
    shown = client.show(execution_id)
    assert (shown.state, shown.record["replay_count"]) == ("waiting", "1")
    assert [one.id for one in client.list_lane("default")] == [execution_id]


def test_a_skipped_member_of_a_flow_that_runs_again_waits_again(client: Client) -> None:
    flow = client.create_flow()
    top = flow.add("job")
    client.cancel(top)
    child = flow.add("job", after=[top])
    assert client.state(child) == "skipped"
    assert client.replay(child) == "waiting_children"
    assert client.state(child) == "waiting_children"


def test_a_replay_finds_its_library_again(client: Client, url: str) -> None:
    execution_id = client.submit("job")
    client.cancel(execution_id)
    with redis.Redis.from_url(url) as server:
        server.function_flush()
    assert client.replay(execution_id) == "waiting"


@pytest.mark.parametrize("method", ["show", "state", "cancel", "wait", "result", "replay"])
def test_what_is_no_execution_id_is_refused(client: Client, method: str) -> None:
    with pytest.raises(ValueError, match="is not an execution id"):
        getattr(client, method)("nonsense")


@pytest.mark.parametrize("lane", ["", "x" * 65, "tab\t", "ünïcode"])
def test_a_bad_lane_is_refused(client: Client, lane: str) -> None:
    with pytest.raises(InvalidRequestError, match="1 to 64 printable ASCII"):
        client.submit("job", lane=lane)


@pytest.mark.parametrize("token", ["", "a,b", "a b", "a\x00"])
def test_a_bad_required_capability_is_refused_by_the_store(client: Client, token: str) -> None:
    policy = {"routing_requirements": {"required_capabilities": [token]}}
    with pytest.raises(InvalidRequestError, match="invalid_capabilities"):
        client.submit("job", policy=policy)


def test_a_store_that_is_not_there_is_reported_after_the_clients_patience(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="cannot reach the store"):
        Client(f"unix://{tmp_path}/none.sock", patience_s=0.05)


def test_a_library_lost_meanwhile_is_loaded_again(client: Client, url: str) -> None:
    with redis.Redis.from_url(url) as server:
        server.function_flush()
    assert client.state(client.submit("job")) == "waiting"


@pytest.mark.parametrize(
    ("release", "function", "remedy"),
    [
        ((99, 0, 0), "ffsuper_add_member", "upgrade this program, or go back"),
        ((0, 0, 1), "ffsuper_add_member", "load the libraries of this release with ffsuper library --load"),
        ((99, 0, 0), "ff_create_flow", "upgrade this program, or go back"),
    ],
)
def test_a_library_that_is_there_without_a_function_is_told_with_what_to_do(
    client: Client, url: str, release: tuple[int, ...], function: str, remedy: str
) -> None:
    flow = client.create_flow()
    name = FFSUPER if function.startswith("ffsuper_") else FLOWFABRIC
    with redis.Redis.from_url(url) as server:
        server.function_load(library_of(name, release, without=(function,)), replace=True)
    with pytest.raises(StoreUnsuitableError, match=f"holds a library {name} without {function}.*: {remedy}"):
        flow.add("job") if name == FFSUPER else client.create_flow()
    assert exit_of(StoreUnsuitableError) == 76


def test_a_library_that_is_lost_and_may_not_be_loaded_is_told_by_its_name(client: Client, url: str) -> None:
    with redis.Redis.from_url(url) as server, Client(StoreConfig(url=url, library="never"), patience_s=0) as other:
        server.function_flush()
        with pytest.raises(
            StoreUnavailableError, match="lacks library flowfabric, which has ff_create_execution: run"
        ):
            other.submit("job")


def test_threads_may_share_a_client(client: Client) -> None:
    ids: list[str] = []

    def submit() -> None:
        ids.extend(client.submit("job") for _ in range(50))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == client.depth("default")["eligible"] == 200


def test_settings_never_show_a_password() -> None:
    assert "secret" not in repr(StoreConfig(password="secret"))


def test_a_payload_that_the_store_cannot_take_is_refused_before_it_is_sent(client: Client) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return PAYLOAD_LIMIT_BYTES + 1

    with pytest.raises(InvalidRequestError, match="a payload of 536870913 bytes, over the limit of 536870912"):
        client.submit("job", Huge())
    assert client.list_lane("default") == []
