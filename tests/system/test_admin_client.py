"""The client of a server, and the command line with ``--server``, against real processes."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import redis

from ffsuper import AdminClient
from ffsuper.child.context import Usage
from ffsuper.cli import Exit, main
from ffsuper.client import Client
from ffsuper.errors import (
    ExecutionNotFoundError,
    InvalidRequestError,
    LeaseLostError,
    RefusedError,
    StoreAccessError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.submissions import Submission
from tests.redis_server import running_server
from tests.system.test_server import free_port, start_server
from tests.system.workers import LIMIT_S, Workers, eventually

TOKEN = "a-token"
FAST = {"type": "fixed", "delay_ms": 1}
UNKNOWN = "{fp:1}:00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Served:
    """A store with a server that wants a token, and a worker for lane ``default``."""

    url: str
    store_url: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with running_server(folder) as store_url:
        workers, port = Workers(folder, store_url), free_port()
        try:
            with pytest.MonkeyPatch.context() as environment:
                (folder / "server-token").write_text(TOKEN)
                environment.setenv("FFSUPER_SERVER_TOKEN_FILE", str(folder / "server-token"))
                start_server(workers, port)
            workers.start()
            yield Served(f"http://127.0.0.1:{port}", store_url)
        finally:
            workers.end_all()


@pytest.fixture
def admin(served: Served) -> Iterator[AdminClient]:
    with AdminClient(served.url, token=TOKEN) as admin:
        yield admin


@pytest.fixture
def direct(served: Served) -> Iterator[Client]:
    """Provide the client of the store itself, to compare with."""
    with Client(served.store_url) as client:
        yield client


@pytest.fixture
def idle() -> str:
    """Name a lane that nobody works on."""
    return f"idle-{uuid.uuid4()}"


def test_an_execution_is_submitted_waited_for_and_its_result_read(admin: AdminClient) -> None:
    execution = admin.submit("echo", bytes(range(256)))
    ended = admin.wait(execution, LIMIT_S)
    assert (ended.id, ended.state, ended.kind, ended.lane) == (execution, "completed", "echo", "default")
    assert ended.is_final
    assert admin.result(execution) == bytes(range(256))


def test_what_is_submitted_over_http_is_what_the_store_would_have_got(
    admin: AdminClient, direct: Client, idle: str
) -> None:
    given = {"priority": 7, "namespace": "books", "tags": {"color": "blue"}, "policy": {"max_reclaim_count": 2}}
    mine = admin.submit("job", {"a": [1, None]}, lane=idle, **given)  # type: ignore[arg-type]
    theirs = direct.submit("job", {"a": [1, None]}, lane=idle, **given)  # type: ignore[arg-type]
    assert mine.partition("}")[0] == theirs.partition("}")[0]
    here, there = direct.show(mine), direct.show(theirs)
    assert here.tags == there.tags
    own = {"execution_id", "created_at", "last_mutation_at", "last_transition_at"}
    assert {name: here.record[name] for name in here.record.keys() - own} == {
        name: there.record[name] for name in there.record.keys() - own
    }


def without_leases(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if not name.endswith("lease_id")}


def test_what_is_shown_over_http_is_what_the_store_has_but_for_the_ids_of_leases(
    admin: AdminClient, direct: Client
) -> None:
    policy = {"retry_policy": {"max_retries": 1, "backoff": FAST}}
    execution = admin.submit("stream", 2, priority=3, tags={"color": "blue"}, policy=policy)
    shown = admin.wait(execution, LIMIT_S)
    there, history = direct.show(execution), direct.history(execution)
    assert shown == replace(
        there,
        record=without_leases(there.record),
        attempts=[without_leases(attempt) for attempt in there.attempts],
    )
    assert (shown.tags, len(shown.attempts)) == ({"color": "blue"}, 2)
    assert admin.history(execution) == [without_leases(event) for event in history]
    lease_ids = {value for one in (*there.attempts, *history) for name, value in one.items() if "lease_id" in name}
    assert len(lease_ids) == 2
    assert not any(lease_id in f"{shown} {admin.history(execution)}" for lease_id in lease_ids)


def test_a_delayed_execution_waits_and_an_idempotency_key_submits_once(admin: AdminClient, idle: str) -> None:
    first = admin.submit("job", lane=idle, delay=3600, idempotency_key="order-7")
    assert admin.submit("job", lane=idle, delay=3600, idempotency_key="order-7") == first
    assert admin.state(first) == "delayed"
    assert [one.id for one in admin.list_lane(idle, "delayed")] == [first]


def test_waiting_too_long_says_in_which_state_it_still_is(admin: AdminClient, idle: str) -> None:
    with pytest.raises(TimeoutError, match=r"is still waiting after 0\.01 s"):
        admin.wait(admin.submit("job", lane=idle), timeout_s=0.01)


def test_a_cancelled_execution_says_so_and_cannot_be_cancelled_again(
    admin: AdminClient, direct: Client, idle: str
) -> None:
    execution = admin.submit("job", lane=idle)
    assert admin.cancel(execution, "wrong customer").state == "cancelled"
    assert direct.show(execution).record["cancellation_reason"] == "wrong customer"
    with pytest.raises(LeaseLostError, match="execution_not_active"):
        admin.cancel(execution)
    assert admin.result(execution) is None


@pytest.mark.parametrize(
    "method", ["show", "state", "cancel", "wait", "waitpoint", "waitpoints", "replay", "revoke_lease"]
)
def test_an_unknown_execution_is_not_found(admin: AdminClient, method: str) -> None:
    with pytest.raises(ExecutionNotFoundError):
        getattr(admin, method)(UNKNOWN)


def test_an_unknown_execution_has_no_result_no_priority_no_frames_and_takes_no_signals(admin: AdminClient) -> None:
    assert (admin.result(UNKNOWN), admin.history(UNKNOWN)) == (None, [])
    with pytest.raises(ExecutionNotFoundError):
        admin.change_priority(UNKNOWN, 1)
    with pytest.raises(ExecutionNotFoundError):
        next(admin.tail(UNKNOWN))
    for more in ({}, {"waitpoint_id": str(uuid.uuid4()), "token": "k1:00"}):
        with pytest.raises(ExecutionNotFoundError):
            admin.signal(UNKNOWN, "go", **more)


@pytest.mark.parametrize("method", ["show", "state", "cancel", "wait", "result", "replay"])
def test_what_is_no_execution_id_is_refused(admin: AdminClient, method: str) -> None:
    with pytest.raises(ValueError, match="is not an execution id"):
        getattr(admin, method)("nonsense")


def test_bad_arguments_are_refused_as_the_store_does(admin: AdminClient) -> None:
    with pytest.raises(InvalidRequestError, match="1 to 64 printable ASCII"):
        admin.submit("job", lane="tab\t")
    with pytest.raises(InvalidRequestError, match="invalid_capabilities"):
        admin.submit("job", policy={"routing_requirements": {"required_capabilities": ["a b"]}})
    with pytest.raises(InvalidRequestError, match="Content Too Large"):
        admin.submit("job", bytes(2 * 1024 * 1024))
    with pytest.raises(InvalidRequestError, match="state"):
        admin.list_lane("default", "no-such-index")


def test_a_lane_is_listed_over_all_partitions_highest_priority_first(admin: AdminClient, idle: str) -> None:
    ids = [ExecutionId(f"{{fp:{number}}}:{uuid.uuid4()}") for number in (3, 200, 100, 3)]
    wanted = [
        Submission(execution_id=one, lane=LaneId(idle), execution_kind="job", priority=priority)
        for one, priority in zip(ids, (1, 9, 5, 9), strict=True)
    ]
    assert admin.submit_many(wanted) == ids
    assert [one.id for one in admin.list_lane(idle)] == [ids[1], ids[3], ids[2], ids[0]]
    (first,) = admin.list_lane(idle, limit=1)
    assert (first.id, first.state, first.kind, first.lane) == (ids[1], "waiting", "job", idle)
    assert admin.list_lane(idle, "terminal") == []
    assert admin.list_lane(idle, "blocked:route") == []


def test_more_than_one_page_of_a_partition_is_listed(
    admin: AdminClient, idle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffsuper.admin.client.MOST_LISTED", 2)
    ids = {admin.submit("job", lane=idle) for _ in range(5)}
    assert {one.id for one in admin.list_lane(idle)} == ids
    assert len(admin.list_lane(idle, limit=3)) == 3


def test_a_signal_brings_a_handler_back_and_its_waitpoint_is_told(admin: AdminClient) -> None:
    execution = admin.submit("approval", {"signals": ["a", "b"]})
    eventually(lambda: admin.state(execution) == "suspended", "it to be suspended")
    point = admin.waitpoint(execution)
    assert point is not None
    assert admin.waitpoints(execution) == [point]
    assert (point.state, point.signal_names, point.token in repr(point)) == ("active", ("a", "b"), False)
    with pytest.raises(RefusedError, match="invalid_token"):
        admin.signal(execution, "a", token=f"k1:{'0' * 40}")
    with pytest.raises(RefusedError, match="execution_not_suspended"):
        admin.signal(execution, "a", waitpoint_id=str(uuid.uuid4()))
    assert admin.signal(execution, "other").effect == "no_op"
    first = admin.signal(execution, "a", {"by": "ann"}, idempotency_key="once", source="test")
    again = admin.signal(execution, "a", idempotency_key="once")
    assert (first.effect, again.effect, again.signal_id) == ("appended_to_waitpoint", "duplicate", first.signal_id)
    told = admin.signal(execution, "b", b"raw", waitpoint_id=point.id, token=point.token)
    assert told.effect == "resume_condition_satisfied"
    assert admin.wait(execution, LIMIT_S).state == "completed"
    assert json.loads(admin.result(execution) or b"") == [["a", '{"by": "ann"}'], ["b", "raw"]]
    assert admin.waitpoint(execution) is None
    with pytest.raises(RefusedError, match=r"execution_not_suspended \(completed\)"):
        admin.signal(execution, "a")


def test_a_signal_reaches_an_execution_that_will_wait_for_it(admin: AdminClient, tmp_path: Path) -> None:
    execution = admin.submit("approval-beforehand", str(tmp_path))
    handed_out = tmp_path / "token"
    told: str = eventually(lambda: handed_out.read_text() if handed_out.exists() else "", "the token")
    waitpoint_id, token = told.split()
    delivery = admin.signal(execution, "go", b"early", waitpoint_id=waitpoint_id, token=token)
    assert delivery.effect == "buffered_for_pending_waitpoint"
    (tmp_path / "sent").touch()
    assert admin.wait(execution, LIMIT_S).state == "completed"


def test_frames_of_all_attempts_are_followed_to_the_end(admin: AdminClient, direct: Client) -> None:
    execution = admin.submit("stream", 4, policy={"retry_policy": {"max_retries": 1, "backoff": FAST}})
    frames = list(admin.tail(execution))
    assert [one.payload for one in frames] == [b"0.0", b"0.1", b"1.0", b"1.1", b"1.2", b"1.3"]
    assert frames == list(direct.tail(execution)) == list(admin.tail(execution, live=False))


def test_more_than_one_page_of_frames_is_followed(admin: AdminClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffsuper.admin.client.MOST_FRAMES", 1)
    execution = admin.submit("stream", 2, policy={"retry_policy": {"max_retries": 1, "backoff": FAST}})
    admin.wait(execution, LIMIT_S)
    assert [one.payload for one in admin.tail(execution)] == [b"0.0", b"1.0", b"1.1"]


def test_a_tail_that_does_not_follow_stops_at_what_there_is(admin: AdminClient, idle: str) -> None:
    assert list(admin.tail(admin.submit("job", lane=idle), live=False)) == []


def test_an_execution_gets_another_priority_while_it_waits(admin: AdminClient, idle: str) -> None:
    execution = admin.submit("job", lane=idle, priority=1)
    admin.change_priority(execution, 8)
    assert admin.show(execution).record["priority"] == "8"
    admin.cancel(execution)
    with pytest.raises(RefusedError, match="execution_not_eligible"):
        admin.change_priority(execution, 9)


def test_an_ended_execution_is_replayed(admin: AdminClient, idle: str) -> None:
    execution = admin.submit("job", lane=idle)
    with pytest.raises(RefusedError, match="execution_not_terminal"):
        admin.replay(execution)
    admin.cancel(execution)
    assert admin.replay(execution) == "waiting"
    assert admin.state(execution) == "waiting"


def test_a_lease_is_taken_from_its_holder(admin: AdminClient, tmp_path: Path, idle: str) -> None:
    execution = admin.submit("wait-for-file", {"folder": str(tmp_path)})
    eventually((tmp_path / "started-0").exists, "it to run")
    assert admin.revoke_lease(execution)
    with pytest.raises(RefusedError, match="no_active_lease"):
        admin.revoke_lease(admin.submit("job", lane=idle))
    (tmp_path / "go").touch()


def test_a_budget_is_created_used_and_reset(admin: AdminClient) -> None:
    budget = admin.create_budget({"tokens": 10}, {"tokens": 5, "cents": 3}, scope_type="lane", scope_id="default")
    assert admin.create_budget({"tokens": 99}, budget_id=budget) == budget
    assert admin.report_usage(budget, {"tokens": 4}, dedup_key="once") == Usage("ok")
    assert admin.report_usage(budget, {"tokens": 4}, dedup_key="once") == Usage("already_applied")
    assert admin.report_usage(budget, {"tokens": 4}) == Usage("soft_breach", "tokens", 8, 5)
    assert admin.report_usage(budget, {"tokens": 4}) == Usage("hard_breach", "tokens", 8, 10)
    read = admin.budget(budget)
    assert (read.usage, read.scope_type, read.breach_count, read.last_breach_dimension) == (
        *({"tokens": 8}, "lane", 1, "tokens"),
    )
    assert (read.hard_limits, read.soft_limits) == ({"cents": 0, "tokens": 10}, {"cents": 3, "tokens": 5})
    assert admin.reset_budget(budget) == 0
    assert admin.budget(budget).usage == {"tokens": 0}
    timed = admin.create_budget({"tokens": 1}, reset_interval_s=60)
    assert admin.reset_budget(timed) == admin.budget(timed).next_reset_at_ms > 1_600_000_000_000


@pytest.mark.parametrize("method", ["budget", "reset_budget"])
def test_a_budget_that_is_not_there_is_told(admin: AdminClient, method: str) -> None:
    with pytest.raises(RefusedError, match="budget_not_found"):
        getattr(admin, method)(str(uuid.uuid4()))
    with pytest.raises(ValueError, match="is not a budget id"):
        getattr(admin, method)("../executions")


def test_a_quota_is_created_once(admin: AdminClient, served: Served) -> None:
    quota = admin.create_quota(window_s=60, max_requests=5, max_concurrent=2)
    assert admin.create_quota(window_s=1, quota_id=quota) == quota
    with redis.Redis.from_url(served.store_url) as store:
        (key,) = store.keys(f"ff:quota:*{quota}")
        assert store.hget(key, "max_requests_per_window") == b"5"


def test_the_secret_is_rotated_and_older_tokens_stay_valid(admin: AdminClient) -> None:
    execution = admin.submit("approval", {"signals": ["a"]})
    eventually(lambda: admin.state(execution) == "suspended", "it to be suspended")
    rotation = admin.rotate_secret("k2", "ab" * 32)
    assert (rotation.rotated, rotation.is_complete) == (256, True)
    assert admin.rotate_secret("k2", "ab" * 32) == rotation
    assert admin.signal(execution, "a").effect == "resume_condition_satisfied"
    for kid, secret in (("k:3", "ab"), ("k3", "abc")):
        with pytest.raises(InvalidRequestError):
            admin.rotate_secret(kid, secret)


def test_a_missing_or_wrong_token_is_told(served: Served) -> None:
    for token in ("", "wrong"):
        with AdminClient(served.url, token=token) as admin, pytest.raises(StoreAccessError, match="missing or wrong"):
            admin.state(UNKNOWN)


def test_a_url_behind_which_is_something_else_is_told(served: Served) -> None:
    with AdminClient(f"{served.url}/elsewhere", token=TOKEN) as admin, pytest.raises(StoreUnsuitableError):
        admin.submit("job")


def test_a_server_that_is_not_there_is_told_with_its_url_after_the_clients_patience() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with AdminClient(url, patience_s=0.05) as admin, pytest.raises(StoreUnavailableError, match=f"reach .* {url}: "):
        admin.submit("job")


def test_threads_may_share_a_client(admin: AdminClient, idle: str) -> None:
    ids: list[str] = []

    def submit() -> None:
        ids.extend(admin.submit("job", lane=idle) for _ in range(10))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.id for one in admin.list_lane(idle)} == set(ids)
    assert len(ids) == 40


def test_calls_wait_for_a_server_that_is_started_again(workers: Workers, client: Client) -> None:
    port = free_port()
    server = start_server(workers, port)
    with AdminClient(f"http://127.0.0.1:{port}", patience_s=LIMIT_S) as admin:
        first = admin.submit("job")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        ids: list[str] = []
        waiting = threading.Thread(target=lambda: ids.append(admin.submit("job")))
        waiting.start()
        start_server(workers, port)
        waiting.join(LIMIT_S)
        assert client.states([first, *map(ExecutionId, ids)]) == ["waiting", "waiting"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Call the program; return its exit code, stdout and stderr."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out.strip(), err.strip()


@pytest.fixture
def over_http(served: Served, tmp_path: Path) -> tuple[str, ...]:
    """Provide the options that lead to the server."""
    (tmp_path / "server-token").write_text(f"{TOKEN}\n")
    return "--server", served.url, "--server-token-file", str(tmp_path / "server-token")


def test_the_command_line_does_over_http_what_it_does_with_a_store(
    over_http: tuple[str, ...], idle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ("submit", "job", '{"a": 1}', "--priority", "5", "--lane", idle, "--tag", "color=blue")
    code, execution, _ = run(capsys, *wanted, *over_http)
    assert code == Exit.OK
    code, out, _ = run(capsys, "show", execution, *over_http)
    parts = (execution, "waiting", "job", "priority 5", "color=blue")
    assert (code, [part in out for part in parts]) == (Exit.OK, [True] * 5)
    shown = json.loads(run(capsys, "show", execution, "--json", *over_http)[1])
    assert (shown["id"], shown["state"], shown["history"]) == (execution, "waiting", [])
    code, out, _ = run(capsys, "list", "--lane", idle, *over_http)
    assert (code, out.split()[0]) == (Exit.OK, execution)
    code, out, _ = run(capsys, "cancel", execution, *over_http)
    assert (code, out) == (Exit.OK, f"{execution} cancelled")
    code, _, err = run(capsys, "result", execution, *over_http)
    assert (code, err) == (Exit.ENDED_OTHERWISE, f"ffsuper: {execution} is cancelled: cancelled by operator")
    assert run(capsys, "replay", execution, *over_http)[:2] == (Exit.OK, f"{execution} waiting")
    code, _, err = run(capsys, "replay", execution, *over_http)
    assert (code, "execution_not_terminal" in err, "it has not ended yet" in err) == (Exit.INPUT, True, True)


def test_the_command_line_waits_signals_and_tails_over_http(
    over_http: tuple[str, ...], admin: AdminClient, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "submit", "echo", "[1]", "--wait", "60", *over_http)
    assert (code, out) == (Exit.OK, "[1]")
    execution = admin.submit("approval", {"signals": ["a"]})
    eventually(lambda: admin.state(execution) == "suspended", "it to be suspended")
    assert run(capsys, "signal", execution, "a", *over_http)[:2] == (Exit.OK, "resume_condition_satisfied")
    assert run(capsys, "result", execution, "--wait", "60", *over_http)[:2] == (Exit.OK, '[["a", ""]]')
    streaming = admin.submit("stream", 2, policy={"retry_policy": {"max_retries": 1, "backoff": FAST}})
    assert run(capsys, "tail", streaming, *over_http)[:2] == (Exit.OK, "0.0\n1.0\n1.1")


def test_the_command_line_says_over_http_why_an_execution_failed(
    over_http: tuple[str, ...], admin: AdminClient, capsys: pytest.CaptureFixture[str]
) -> None:
    execution = admin.submit("fail-for-good")
    code, out, err = run(capsys, "result", execution, "--wait", "60", *over_http)
    reason = admin.show(execution).record["failure_reason"]
    assert (code, out, err) == (Exit.ENDED_OTHERWISE, "", f"ffsuper: {execution} is failed: {reason}")
    assert reason
    out = run(capsys, "show", execution, *over_http)[1]
    assert [word in out for word in (reason, "attempt  0", "history", "acquired")] == [True] * 4


def test_the_file_of_the_servers_token_is_named_by_a_variable_too(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = ("list", "--server", served.url, "--limit", "1")
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("FFSUPER_SERVER_TOKEN_FILE", str(tmp_path / "token"))
    assert run(capsys, *listing)[0] == Exit.OK
    monkeypatch.delenv("FFSUPER_SERVER_TOKEN_FILE")
    code, _, err = run(capsys, *listing)
    assert (code, "the token is missing or wrong" in err) == (Exit.STORE_ACCESS, True)


def test_an_execution_that_is_not_there_is_told_over_http(
    over_http: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "show", UNKNOWN, *over_http)
    what, then = err.splitlines()
    assert (code, what) == (Exit.NOT_FOUND, f"ffsuper: show: execution_not_found ({UNKNOWN})")
    assert "it was never submitted here" in then


@pytest.mark.parametrize("subcommand", ["list", "signal"])
def test_a_token_file_that_is_not_there_is_told(
    subcommand: str, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["list", "--server-token-file", "/no/such/file"]
    if subcommand == "signal":
        wanted = ["signal", UNKNOWN, "go", "--token-file", "/no/such/file"]
    code, _, err = run(capsys, *wanted, "--server", served.url)
    assert (code, "/no/such/file" in err) == (Exit.CONFIG, True)
