"""Flows with real workers: results passed along, failing branches, cancellation, an engine that dies half-way."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ffsuper.client import Client
from ffsuper.errors import InvalidRequestError, RefusedError
from tests.system.test_worker import read
from tests.system.workers import LIMIT_S, Workers, eventually


def test_a_diamond_passes_results_along_and_runs_to_its_end(workers: Workers, client: Client) -> None:
    workers.start()
    flow = client.create_flow("diamond")
    top = flow.add("append", {"text": ""}, tags={"letter": "a"})
    left = flow.add("append", {"text": "unused"}, passing=top, tags={"letter": "b"})
    right = flow.add("append", {"text": "own"}, after=[top], tags={"letter": "c"})
    bottom = flow.add("append", {"text": "unused"}, after=[right], passing=left, tags={"letter": "d"})
    shown = flow.wait(LIMIT_S)
    assert shown.state == "completed"
    assert set(shown.members) == {top, left, right, bottom}
    assert [client.result(one) for one in (top, left, right, bottom)] == [
        b'{"text": "a"}',
        b'{"text": "ab"}',
        b'{"text": "ownc"}',
        b'{"text": "abd"}',
    ]
    started, ended = client.show(bottom).record["started_at"], client.show(right).record["completed_at"]
    assert int(started) >= int(ended)


def test_when_a_branch_fails_what_waits_for_it_is_skipped_and_the_rest_runs(workers: Workers, client: Client) -> None:
    workers.start()
    flow = client.create_flow()
    top = flow.add("no-op")
    failing = flow.add("fail-for-good", after=[top])
    other = flow.add("no-op", after=[top])
    bottom = flow.add("no-op", after=[failing, other])
    last = flow.add("no-op", after=[bottom])
    shown = flow.wait(LIMIT_S)
    assert shown.state == "failed"
    assert [shown.members[one] for one in (top, failing, other, bottom, last)] == [
        "completed",
        "failed",
        "completed",
        "skipped",
        "skipped",
    ]


def test_a_member_that_comes_after_all_that_it_waits_for_runs_at_once(workers: Workers, client: Client) -> None:
    workers.start()
    flow = client.create_flow()
    first = flow.add("append", {"text": ""}, tags={"letter": "a"})
    client.wait(first, LIMIT_S)
    late = flow.add("append", b"", passing=first, tags={"letter": "b"})
    assert client.wait(late, LIMIT_S).state == "completed"
    assert client.result(late) == b'{"text": "ab"}'
    failed = flow.add("fail-for-good")
    client.wait(failed, LIMIT_S)
    assert client.wait(flow.add("no-op", after=[failed]), LIMIT_S).state == "skipped"


def test_cancelling_a_flow_ends_what_runs_and_what_waits(workers: Workers, client: Client, tmp_path: Path) -> None:
    workers.start()
    flow = client.create_flow()
    running = flow.add("wait-for-file", {"folder": str(tmp_path)})
    waiting = flow.add("no-op", after=[running])
    eventually(lambda: read(tmp_path / "started-0"), "the first member")
    shown = client.flow(flow.id).cancel("no longer needed")
    assert (shown.state, set(shown.members.values())) == ("cancelled", {"cancelled"})
    assert client.show(waiting).record["cancellation_reason"] == "no longer needed"
    assert flow.cancel() == flow.show()
    with pytest.raises(RefusedError, match="flow_already_terminal"):
        flow.add("no-op")


def test_a_flow_goes_on_when_its_engine_dies_in_the_middle(workers: Workers, client: Client, tmp_path: Path) -> None:
    first = workers.start_engine("engine-1")
    first.wait_for("engine leads")
    second = workers.start_engine("engine-2", dependency_ms=500)
    workers.start(engine="false")
    flow = client.create_flow()
    top = flow.add("wait-for-file", {"folder": str(tmp_path)})
    flow.add("no-op", after=[top])
    eventually(lambda: read(tmp_path / "started-0"), "the first member")
    first.signal(signal.SIGKILL)
    first.wait()
    (tmp_path / "go").touch()  # nobody hears that it ends
    client.wait(top, LIMIT_S)
    second.wait_for("engine leads")
    assert flow.wait(LIMIT_S).state == "completed"


def test_members_that_are_added_later_are_in_the_flows_namespace(client: Client) -> None:
    flow = client.create_flow("report", namespace="books")
    late = client.flow(flow.id).add("no-op", after=[flow.add("no-op")])
    assert client.show(late).record["namespace"] == "books"


def test_what_cannot_be_a_flow_is_told(workers: Workers, client: Client) -> None:
    workers.start()
    with pytest.raises(InvalidRequestError, match="no flow id"):
        client.flow("nonsense")
    unknown = client.flow("0b1f9e9c-0000-4000-8000-000000000000")
    for use in (unknown.show, unknown.wait, unknown.cancel, lambda: unknown.add("no-op")):
        with pytest.raises(RefusedError, match="flow_not_found"):
            use()
    flow, other = client.create_flow(), client.create_flow()
    with pytest.raises(RefusedError, match="execution_not_in_flow"):
        flow.add("no-op", after=[other.add("no-op")])
    with pytest.raises(ValueError, match="is not an execution id"):
        flow.add("no-op", after=["nonsense"])
    slow = flow.add("no-op", lane="nobody")
    with pytest.raises(TimeoutError, match=slow.replace("{", r"\{")):
        flow.wait(0.05)
