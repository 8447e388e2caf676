"""The executor stores how a child died before it delivers what that means, and never waits long for it."""

from __future__ import annotations

import json
import logging

import pytest
import trio
import trio.testing

from ffsuper.actors.attempt import CRASH_REPORT_S
from ffsuper.errors import LibraryMissingError, RefusedError, StoreError, StoreScriptError
from ffsuper.messages import Emit, Failed, Lease, Start
from tests.actors.test_executor import Rig, ended, executing, hang
from tests.fake_children import FakeChild


async def crash(child: FakeChild, start: Start) -> None:
    child.die(by_signal=11)


async def crash_later(child: FakeChild, start: Start) -> None:
    await trio.sleep(5)
    child.die(exit_code=3)


def let_reports(rig: Rig, error: StoreError | None) -> None:
    """Let the store refuse reports with an error, or never answer to them."""

    async def report_crash(lease: Lease, report: str) -> None:
        await trio.lowlevel.checkpoint()
        if error is not None:
            raise error
        await trio.sleep_forever()

    rig.store.attempts.report_crash = report_crash  # type: ignore[method-assign]


async def test_a_crash_is_reported_before_the_failure_is_delivered(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(crash) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        told = json.loads(record.crash_report)
        assert (told["signal"], told["why_killed"]) == ("SIGSEGV", "")
        assert [line["text"] for line in told["output"]] == ["its last words"]
        assert [call for call in rig.store.calls if call in ("report_crash", "deliver")] == [
            "report_crash",
            "deliver",
        ]


async def test_frames_are_stored_before_a_crash_is_reported(autojump_clock: trio.testing.MockClock) -> None:
    async def emits_and_crashes(child: FakeChild, start: Start) -> None:
        rig.store.away = True
        child.say(Emit(start.task, "delta", "", b"frame"))
        await trio.sleep(1)
        child.die(exit_code=1)

    async with executing(emits_and_crashes) as rig:
        record, _ = await rig.assign()
        await trio.sleep(100)
        rig.store.away = False
        await rig.finished()
        assert (record.frames, json.loads(record.crash_report)["exit_code"]) == ([b"frame"], 1)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (RefusedError("fake", "invalid_input"), logging.WARNING),
        (StoreScriptError("broken"), logging.WARNING),
        (LibraryMissingError("not ours"), logging.DEBUG),
    ],
)
async def test_a_report_that_the_store_does_not_take_is_dropped(
    error: StoreError, level: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with executing(crash) as rig:
        let_reports(rig, error)
        record, _ = await rig.assign()
        await rig.finished()
        assert record.failure == Failed("child 1000 was killed by SIGSEGV\nits last words", "crash")
        assert trio.current_time() == 0
    assert [one.levelno for one in caplog.records if one.message == "crash report not stored"] == [level]


async def test_a_report_is_not_waited_for_while_the_store_is_away(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(crash_later) as rig:
        record, _ = await rig.assign()
        rig.store.away = True
        await trio.sleep(60)
        rig.store.away = False
        await rig.finished()
        assert (record.state, record.crash_report) == ("failed", "")
        assert rig.store.calls.count("report_crash") == 1


async def test_a_store_that_does_not_answer_delays_the_outcome_for_a_moment_only(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with executing(crash) as rig:
        let_reports(rig, None)
        record, _ = await rig.assign()
        await rig.finished()
        assert (record.state, trio.current_time()) == ("failed", CRASH_REPORT_S)
    assert "crash report not stored" in caplog.text


async def test_a_lease_that_ends_meanwhile_ends_the_report(autojump_clock: trio.testing.MockClock) -> None:
    async with executing(crash_later) as rig:
        let_reports(rig, None)
        record, lease_end = await rig.assign()
        await trio.sleep(5 + CRASH_REPORT_S / 2)
        lease_end.send_nowait(ended(record, "stale_lease"))
        await rig.finished()
        assert trio.current_time() == 5 + CRASH_REPORT_S / 2
        assert "deliver" not in rig.store.calls


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_child_that_is_killed_when_the_lease_is_over_is_not_reported(
    has_ended: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with executing(hang) as rig:
        record, lease_end = await rig.assign()
        await trio.testing.wait_all_tasks_blocked()
        lease_end.send_nowait(ended(record, "stale_lease", has_ended=has_ended))
        await rig.finished()
        assert "kill" in rig.fork_server.children[0].done_to_it
        assert rig.store.calls[-1] == "claim 1"


async def test_of_many_in_one_child_only_the_one_that_it_was_killed_for_is_reported(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with executing(hang, tasks_per_process=3, grace_s=1.0) as rig:
        records = [(await rig.assign(kind=kind))[0] for kind in ("job", "short", "job")]
        for _ in records:
            await rig.finished()
        told = json.loads(records[1].crash_report)
        assert told["why_killed"].startswith("timed out; the handler did not end in time")
        assert [records[0].crash_report, records[2].crash_report] == ["", ""]


async def test_a_kill_for_memory_is_reported_with_the_limit(autojump_clock: trio.testing.MockClock) -> None:
    async def grows(child: FakeChild, start: Start) -> None:
        child.memory = 201 << 20
        await trio.sleep_forever()

    async with executing(grows, hard_memory_mb=200) as rig:
        record, _ = await rig.assign()
        await rig.finished()
        told = json.loads(record.crash_report)
        assert told["signal"] == "SIGKILL"
        assert told["why_killed"] == "child 1000 killed at 201 MiB of memory, over the limit of 200 MiB"
