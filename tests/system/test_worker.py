"""One worker, real children, a real store."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import redis

from ffsuper.client import Client
from tests.system.workers import Workers, eventually

LONG_S = 30.0
RETRY_AT_ONCE = {"retry_policy": {"max_retries": 3, "backoff": {"type": "fixed", "delay_ms": 0}}}


def test_any_bytes_go_through_the_whole_system_intact(workers: Workers, client: Client) -> None:
    workers.start()
    payload = bytes(range(256)) * 1000
    execution = client.submit("echo", payload)
    assert client.wait(execution, LONG_S).state == "completed"
    assert client.result(execution) == payload


def test_progress_is_seen_while_and_after_it_runs(workers: Workers, client: Client) -> None:
    workers.start()
    shown = client.wait(client.submit("progress"), LONG_S)
    assert (shown.record["progress_pct"], shown.record["progress_message"]) == ("42", "getting on")


def test_a_deferred_execution_goes_on_with_the_same_attempt(workers: Workers, client: Client) -> None:
    workers.start()
    execution = client.submit("defer-once")
    assert client.wait(execution, LONG_S).state == "completed"
    assert client.result(execution) == b'"attempt 0, resumed"'


def test_a_failed_attempt_is_retried_by_its_policy(workers: Workers, client: Client) -> None:
    workers.start()
    execution = client.submit("fail-once", policy=RETRY_AT_ONCE)
    shown = client.wait(execution, LONG_S)
    assert (shown.state, client.result(execution)) == ("completed", b'"retry"')
    assert [one["attempt_state"] for one in shown.attempts] == ["ended_failure", "ended_success"]
    assert shown.attempts[0]["failure_reason"] == "ValueError: the first time"


def test_without_a_policy_a_failure_is_final(workers: Workers, client: Client) -> None:
    workers.start()
    shown = client.wait(client.submit("fail-once"), LONG_S)
    assert (shown.state, shown.record["failure_reason"]) == ("failed", "ValueError: the first time")


def test_a_crashed_child_fails_its_attempt_at_once_with_signal_and_last_output(
    workers: Workers, client: Client
) -> None:
    workers.start()
    shown = client.wait(client.submit("segfault"), LONG_S)
    assert shown.state == "failed"
    assert shown.attempts[0]["failure_category"] == "crash"
    assert "was killed by SIGSEGV" in shown.record["failure_reason"]
    assert "before the crash" in shown.record["failure_reason"]
    assert client.wait(client.submit("echo", b"on"), LONG_S).state == "completed"


def test_a_killed_child_costs_one_attempt_and_recovers_at_once(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    workers.start(ttl_ms=30_000)
    execution = client.submit("wait-for-file", {"folder": str(tmp_path)}, policy=RETRY_AT_ONCE)
    child = int(eventually(lambda: read(tmp_path / "started-0"), "the first attempt"))
    killed_s = time.monotonic()
    psutil.Process(child).kill()
    eventually(lambda: read(tmp_path / "started-1"), "the second attempt")
    assert time.monotonic() - killed_s < 10  # far below the lease: nobody waited for that
    (tmp_path / "go").touch()
    assert client.wait(execution, LONG_S).state == "completed"
    assert client.result(execution) == b'"retry"'


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_an_overrunning_handler_is_interrupted(workers: Workers, client: Client) -> None:
    workers.start()
    shown = client.wait(client.submit("yielding"), LONG_S)
    assert (shown.state, shown.attempts[0]["failure_category"]) == ("failed", "timeout")
    assert shown.record["failure_reason"].startswith("SoftTimeout")


def test_one_that_swallows_the_interrupt_is_killed_after_its_stacks_are_shown(
    workers: Workers, client: Client
) -> None:
    worker = workers.start(grace_s=0.3)
    shown = client.wait(client.submit("stubborn"), LONG_S)
    assert (shown.state, shown.attempts[0]["failure_category"]) == ("failed", "timeout")
    steps = [event["step"] for event in worker.events() if event["event"] == "handler is to end"]
    assert steps == ["interrupt", "dump", "kill"]
    assert any("in stubborn" in event.get("line", "") for event in worker.events())


def test_unknown_kinds_are_left_to_other_workers(workers: Workers, client: Client) -> None:
    workers.start(unknown_kind="leave")
    foreign = [client.submit("mystery") for _ in range(100)]
    ours = client.submit("echo", b"")
    assert client.wait(ours, LONG_S).state == "completed"
    assert set(client.states(foreign)) == {"waiting"}


def test_unknown_kinds_are_failed_where_the_operator_wants_that(workers: Workers, client: Client) -> None:
    workers.start(unknown_kind="fail")
    shown = client.wait(client.submit("mystery", policy=RETRY_AT_ONCE), LONG_S)
    assert (shown.state, shown.attempts[0]["failure_category"]) == ("failed", "unknown_kind")


def test_work_that_needs_other_capabilities_is_set_aside_and_hides_nothing(workers: Workers, client: Client) -> None:
    workers.start(capabilities='["cpu"]')
    needs_gpu = {"routing_requirements": {"required_capabilities": ["gpu"]}}
    blocked = client.submit("echo", b"", policy=needs_gpu)
    ours = client.submit("echo", b"", policy={"routing_requirements": {"required_capabilities": ["cpu"]}})
    assert client.wait(ours, LONG_S).state == "completed"
    eventually(lambda: client.show(blocked).record["blocking_reason"] == "waiting_for_capable_worker", "the block")
    assert client.depth("default")["blocked:route"] == 1


def test_every_lane_of_a_worker_is_served(workers: Workers, client: Client) -> None:
    lanes = [f"lane-{number}" for number in range(8)]
    workers.start(lanes=json.dumps(lanes))
    executions = [client.submit("echo", b"", lane=lane) for lane in lanes]
    assert {client.wait(one, LONG_S).state for one in executions} == {"completed"}


def test_a_delayed_execution_runs_when_its_time_has_come(workers: Workers, client: Client) -> None:
    workers.start()
    execution = client.submit("echo", b"", delay=0.3)
    assert client.state(execution) == "delayed"
    shown = client.wait(execution, LONG_S)
    assert int(shown.record["started_at"]) >= int(shown.record["created_at"]) + 290


def test_sigterm_lets_running_work_finish_and_leaves_nothing_behind(
    workers: Workers, client: Client, tmp_path: Path, store_url: str
) -> None:
    worker = workers.start(capabilities='["cpu"]')
    execution = client.submit("wait-for-file", {"folder": str(tmp_path)})
    eventually(lambda: read(tmp_path / "started-0"), "the attempt")
    worker.signal(signal.SIGTERM)
    worker.wait_for("draining")
    later = client.submit("echo", b"")
    (tmp_path / "go").touch()
    assert worker.wait() == 0
    worker.wait_for("claimed", execution=execution, kind="wait-for-file", lane="default")
    worker.wait_for("drained", begun=1, completed=1)
    assert worker.events()[-1].items() >= {"event": "ended", "exit_code": 0, "how": "ok"}.items()
    assert client.state(execution) == "completed"
    assert client.state(later) == "waiting"
    with redis.Redis.from_url(store_url) as server:
        assert server.keys("ff:worker:*") == []
        assert server.smembers("ff:idx:workers") == set()


def test_at_the_drains_deadline_work_is_handed_back_and_another_worker_resumes_it(
    workers: Workers, client: Client, tmp_path: Path
) -> None:
    worker = workers.start("first", drain_s=0.5)
    execution = client.submit("wait-for-file", {"folder": str(tmp_path)})
    child = int(eventually(lambda: read(tmp_path / "started-0"), "the attempt"))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 79
    assert not psutil.pid_exists(child)
    worker.wait_for("finished", execution=execution, kind="wait-for-file", outcome="handed_back", child=child)
    worker.wait_for("child killed", child=child)
    worker.wait_for("drained", begun=1, handed_back=1)
    worker.wait_for("ended", level="info", exit_code=79, how="handed back")
    assert client.show(execution).record["retry_count"] == "0"
    (tmp_path / "go").touch()
    workers.start("second")
    shown = client.wait(execution, LONG_S)
    assert (shown.state, client.result(execution), len(shown.attempts)) == ("completed", b'"resumed"', 1)


def test_a_second_sigterm_hands_back_at_once(workers: Workers, client: Client, tmp_path: Path) -> None:
    worker = workers.start(drain_s=3600.0)
    execution = client.submit("wait-for-file", {"folder": str(tmp_path)})
    eventually(lambda: read(tmp_path / "started-0"), "the attempt")
    worker.signal(signal.SIGTERM)
    worker.wait_for("draining")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 79
    assert client.state(execution) in ("delayed", "waiting")


def test_a_name_is_alive_once(workers: Workers) -> None:
    workers.start("same")
    second = workers.launch("same")
    assert second.wait() == 81
    (ended,) = [one for one in second.events() if one["event"] == "ended"]
    assert (ended["exit_code"], ended["how"]) == (81, "instance taken")
    assert "another worker holds the instance id" in ended["error"]


def test_after_a_kill_the_same_name_is_taken_over_at_once(workers: Workers, client: Client) -> None:
    first = workers.start("same", ttl_ms=30_000)
    first.signal(signal.SIGKILL)
    first.wait()
    began_s = time.monotonic()
    second = workers.start("same", ttl_ms=30_000)
    assert time.monotonic() - began_s < 20  # far below the alive key's minute
    second.wait_for("alive key taken over from a dead process")


def test_a_library_lost_by_the_store_is_loaded_again(workers: Workers, client: Client, store_url: str) -> None:
    workers.start()
    with redis.Redis.from_url(store_url) as server:
        server.function_flush()
    assert client.wait(client.submit("echo", b""), LONG_S).state == "completed"
