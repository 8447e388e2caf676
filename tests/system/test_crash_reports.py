"""What is to be seen of an attempt whose child died or had to be killed."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest
import redis

from ffsuper.cli import Exit, main
from ffsuper.client import Client
from tests.system.test_server import free_port, start_server
from tests.system.workers import LIMIT_S, Worker, Workers, eventually

MIB = 1 << 20


def start(workers: Workers, hard_memory_mb: int = 0) -> Worker:
    return workers.start(
        handlers="tests.system.crashing_handlers_for_tests", children=1, grace_s=0.2, hard_memory_mb=hard_memory_mb
    )


def crash_of(client: Client, execution: str) -> dict[str, Any]:
    """Return the crash report of an execution's only attempt, once it has failed."""
    shown = client.wait(execution, LIMIT_S)
    assert (shown.state, len(shown.attempts)) == ("failed", 1)
    text = shown.attempts[0]["crash_report"]
    assert len(text.encode()) <= 16_384
    report: dict[str, Any] = json.loads(text)
    return report


def output_of(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(line["stream"], line["text"]) for line in report["output"]]


def test_a_segfault_is_reported_with_the_last_output_and_where_it_happened(workers: Workers, client: Client) -> None:
    start(workers)
    before_ms = time.time() * 1000
    report = crash_of(client, client.submit("segfault"))
    assert [report["signal"], report["exit_code"], report["why_killed"]] == ["SIGSEGV", None, ""]
    assert sorted(output_of(report)) == [("stderr", "to stderr"), ("stdout", "to stdout")]
    assert all(before_ms <= line["at_ms"] <= time.time() * 1000 for line in report["output"])
    assert report["stack_dump"][0] == "Fatal Python error: Segmentation fault"
    assert any("crashing_handlers_for_tests.py" in line and "in segfault" in line for line in report["stack_dump"])
    assert 5 * MIB < report["peak_memory_bytes"] < 500 * MIB


def test_an_exit_is_reported_with_its_code(workers: Workers, client: Client) -> None:
    start(workers)
    report = crash_of(client, client.submit("exit"))
    assert [report["signal"], report["exit_code"], report["why_killed"]] == [None, 3, ""]
    assert (output_of(report), report["stack_dump"]) == ([("stdout", "\x1b[31mleaving")], [])


def test_a_kill_from_outside_is_reported_as_nobody_of_ours(workers: Workers, client: Client) -> None:
    start(workers)
    execution = client.submit("wait")
    child = eventually(lambda: client.show(execution).record.get("progress_message"), "the start")
    os.kill(int(child), signal.SIGKILL)
    report = crash_of(client, execution)
    assert [report["signal"], report["exit_code"], report["why_killed"]] == ["SIGKILL", None, ""]
    assert report["pid"] == int(child)


def test_memory_over_the_limit_is_reported_with_the_peak(workers: Workers, client: Client) -> None:
    start(workers, hard_memory_mb=150)
    report = crash_of(client, client.submit("grow"))
    assert report["signal"] == "SIGKILL"
    assert "over the limit of 150 MiB" in report["why_killed"]
    assert report["peak_memory_bytes"] >= 150 * MIB


@pytest.mark.parametrize(("kind", "why"), [("endless", "timed out"), ("silent", "no progress for too long")])
def test_a_handler_that_never_ends_is_reported_with_what_it_was_doing(
    workers: Workers, client: Client, kind: str, why: str
) -> None:
    start(workers)
    report = crash_of(client, client.submit(kind))
    assert [report["signal"], report["exit_code"]] == ["SIGKILL", None]
    assert report["why_killed"].startswith(why)
    assert report["stack_dump"][0].startswith("Current thread 0x")
    assert "in never_ending_work" in report["stack_dump"][1]
    assert "in endless" in report["stack_dump"][2]
    assert [line for line in report["stack_dump"] if line.startswith("Thread 0x")]
    assert report["output"] == []


def test_nonsense_on_the_socket_is_reported_with_what_was_wrong(workers: Workers, client: Client) -> None:
    start(workers)
    report = crash_of(client, client.submit("babble"))
    assert report["signal"] == "SIGKILL"
    assert "killed for speaking nonsense" in report["why_killed"]


def test_of_ten_thousand_lines_the_last_ones_are_reported(workers: Workers, client: Client) -> None:
    start(workers)
    execution = client.submit("chatter")
    numbers = [int(text.split()[1]) for _, text in output_of(crash_of(client, execution))]
    assert numbers == list(range(10_000 - len(numbers), 10_000))
    assert 20 < len(numbers) <= 50
    reason = client.show(execution).record["failure_reason"].splitlines()
    assert (len(reason), reason[0].endswith("exited with code 4 while running")) == (4, True)


def test_a_report_is_about_its_own_attempt_only(workers: Workers, client: Client) -> None:
    start(workers)
    earlier = client.submit("say", "about something else")
    assert client.wait(earlier, LIMIT_S).state == "completed"
    report = crash_of(client, client.submit("exit"))
    assert str(report["pid"]).encode() == client.result(earlier)
    assert [text for _, text in output_of(report)] == ["\x1b[31mleaving"]


def test_an_attempt_that_fails_by_itself_has_no_report(workers: Workers, client: Client) -> None:
    start(workers)
    shown = client.wait(client.submit("say", ["no text"]), LIMIT_S)
    assert shown.attempts[0].keys().isdisjoint({"crash_report"})


@pytest.mark.parametrize(("function", "is_told"), [("ffsuper_report_crash", True), ("ffsuper_other", False)])
def test_where_a_report_cannot_be_stored_the_outcome_is_all_the_same(
    workers: Workers, client: Client, store: redis.Redis, function: str, is_told: bool
) -> None:
    worker = start(workers)
    execution = client.submit("wait")
    child = eventually(lambda: client.show(execution).record.get("progress_message"), "the start")
    code = f"redis.register_function('{function}', function() return redis.error_reply('ERR broken') end)"
    store.function_load(f"#!lua name=ffsuper\n{code}", replace=True)
    os.kill(int(child), signal.SIGKILL)
    shown = client.wait(execution, LIMIT_S)
    assert (shown.state, shown.attempts[0].get("crash_report")) == ("failed", None)
    worker.wait_for("finished", execution=execution)
    assert [one["error"] for one in worker.events() if one["event"] == "crash report not stored"] == [
        "broken"
    ] * is_told


@pytest.fixture
def place(workers: Workers, store_url: str, request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the options that name the store, or a server of it."""
    if request.param == "store":
        return "--store", store_url
    port = free_port()
    start_server(workers, port)
    return "--server", f"http://127.0.0.1:{port}"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show", *arguments]) == Exit.OK
    return capsys.readouterr().out


@pytest.mark.parametrize("place", ["store", "server"], indirect=True)
def test_a_crash_is_shown_under_its_attempt(
    workers: Workers, client: Client, place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    start(workers)
    segfault, leaving, endless = (client.submit(kind) for kind in ("segfault", "exit", "endless"))
    report = crash_of(client, segfault)
    out = shown(capsys, segfault, *place)
    under = out[out.index("attempt  0") :].splitlines()
    peak = f"{report['peak_memory_bytes'] / MIB:.0f} MiB"
    told = [line for line in under if line.startswith("            ") and "to std" not in line]
    assert f"            crash   SIGSEGV, peak {peak}" in told
    assert "            stack   Fatal Python error: Segmentation fault" in told
    assert any(line.startswith("            stack     File ") and "in segfault" in line for line in told)
    (line,) = [line for line in under if "stdout  to stdout" in line]
    assert line.startswith("            output  ")
    crash_of(client, leaving)
    out = shown(capsys, leaving, *place)
    assert "crash   exit code 3, peak" in out
    assert r"stdout  \x1b[31mleaving" in out
    crash_of(client, endless)
    assert "crash   SIGKILL from this worker, peak" in shown(capsys, endless, *place)


@pytest.mark.parametrize("place", ["store", "server"], indirect=True)
def test_as_json_a_crash_is_an_object_of_its_attempt(
    workers: Workers, client: Client, place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    start(workers)
    execution = client.submit("segfault")
    report = crash_of(client, execution)
    (attempt,) = json.loads(shown(capsys, execution, "--json", *place))["attempts"]
    assert (attempt["crash_report"], attempt["attempt_state"]) == (report, "ended_failure")
