"""What handlers are given, and what becomes of what they return and raise; in real children."""

from __future__ import annotations

import json
import os
import signal

import pytest
import trio
import trio.testing

from ffsuper.child.process import Child
from ffsuper.messages import Completed, Deferred, Drain, Ended, Failed, FromChild, InterruptReason, Outcome, Progress
from tests.child.children import Output, ask, hear, one_child, start


async def test_any_bytes_go_in_and_come_out_intact() -> None:
    every_byte = bytes(range(256)) * 5000
    async with one_child() as child:
        assert await ask(child, "echo", every_byte) == Completed(every_byte)


async def test_json_goes_in_and_comes_out() -> None:
    async with one_child() as child:
        assert await ask(child, "json", [1, None]) == Completed(b'{"got": [1, null]}')
        assert await ask(child, "json") == Completed(b'{"got": null}')


async def test_typed_payloads_are_checked_and_typed_results_are_written() -> None:
    async with one_child() as child:
        assert await ask(child, "typed", {"url": "a", "width": 5}) == Completed(b'{"url": "A", "width": 10}')


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"width": 5}, "url"),
        ({"url": "a", "width": "wide"}, "payload.width"),
        ({"url": "a", "width": True}, "payload.width"),
        ([], "payload"),
        (b"not json", "it is not JSON"),
        (b"\xff", "it is not JSON"),
    ],
)
async def test_a_payload_that_does_not_fit_fails_for_good_and_names_the_field(payload: object, told: str) -> None:
    async with one_child() as child:
        failure = await ask(child, "typed", payload)
        assert isinstance(failure, Failed)
        assert (failure.category, failure.retryable) == ("payload", False)
        assert told in failure.reason


async def test_the_context_tells_what_the_handler_needs_and_takes_progress() -> None:
    output: Output = []
    async with one_child(output) as child:
        assert await ask(child, "context") == Progress(1, 50, "half way")
        result = await hear(child)
        assert isinstance(result, Completed)
        assert json.loads(result.result) == {
            "execution_id": "{fp:1}:x",
            "kind": "context",
            "attempt": [3, "retry"],
            "tags": {"color": "blue"},
            "draining": False,
            "cancelled": False,
        }
    assert any("a line in the log" in line for _, _, line in output)


async def test_a_drain_shows_in_the_context() -> None:
    async with one_child() as child:
        await child.send(Drain())
        await ask(child, "context")
        result = await hear(child)
        assert isinstance(result, Completed)
        assert json.loads(result.result)["draining"] is True


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("value", Failed("ValueError: broken", "exception")),
        ("fatal", Failed("hopeless", "fatal", retryable=False)),
        ("exit", Failed("SystemExit: 3", "exception")),
        ("interrupt", Failed("KeyboardInterrupt", "exception")),
        ("surrogate", Failed("ValueError: a file named ?", "exception")),
        ("mute", Failed("Mute: (its text cannot be had)", "exception")),
        ("wordless", Failed("Fatal", "fatal", retryable=False)),
    ],
)
async def test_what_a_handler_raises_becomes_its_failure_and_the_child_goes_on(name: str, expected: Failed) -> None:
    async with one_child() as child:
        assert await ask(child, "raise", name) == expected
        assert await ask(child, "echo", b"on") == Completed(b"on")


async def test_a_long_reason_is_cut() -> None:
    async with one_child() as child:
        failure = await ask(child, "raise", "long")
        assert isinstance(failure, Failed)
        assert len(failure.reason) <= 2000


@pytest.mark.parametrize(("kind", "payload"), [("raise", "defer"), ("return-defer", b"")])
async def test_a_deferral_is_raised_or_returned(kind: str, payload: object) -> None:
    async with one_child() as child:
        assert isinstance(await ask(child, kind, payload), Deferred)


@pytest.mark.parametrize("kind", ["unstorable", "no-number"])
async def test_a_result_that_cannot_be_stored_fails_for_good(kind: str) -> None:
    async with one_child() as child:
        failure = await ask(child, kind)
        assert isinstance(failure, Failed)
        assert (failure.category, failure.retryable) == ("result", False)


async def test_progress_beyond_its_bounds_is_the_handlers_error() -> None:
    async with one_child() as child:
        assert await ask(child, "bad-progress") == Failed("ValueError: progress is 101, not 0 to 100", "exception")


async def test_a_traceback_on_stderr_begins_in_the_users_code() -> None:
    output: Output = []
    async with one_child(output) as child:
        await ask(child, "raise", "value")
        child.kill()
        await child.wait_dead()
    lines = [line for _, stream, line in output if stream == "stderr"]
    assert lines[-1] == "ValueError: broken"
    assert not any("runtime.py" in line for line in lines)


async def test_a_kind_that_nobody_registered_fails_for_good() -> None:
    async with one_child() as child:
        failure = await ask(child, "no such kind")
        assert isinstance(failure, Failed)
        assert (failure.category, failure.retryable) == ("unknown_kind", False)


async def test_the_progress_of_a_thread_that_outlives_its_handler_is_not_the_next_ones() -> None:
    async with one_child() as child:
        assert await ask(child, "late-thread") == Completed(b"")
        await child.send(start("after-late-thread", task=2))
        assert await child.receive() == Ended(2, Completed(b'"not disturbed"'))


async def interrupted(child: Child, reason: InterruptReason) -> FromChild | Outcome | None:
    await child.send(start("sleep", b"3600"))
    assert await hear(child) == Progress(1, 0, "asleep")
    child.interrupt(1, reason)
    return await hear(child)


async def test_a_soft_timeout_is_raised_inside_the_handler_which_may_clean_up() -> None:
    async with one_child() as child:
        assert await interrupted(child, InterruptReason.TIMEOUT) == Completed(b'"cleaned up"')


async def test_a_cancellation_is_raised_inside_the_handler() -> None:
    output: Output = []
    async with one_child(output) as child:
        failure = await interrupted(child, InterruptReason.CANCELLED)
        assert isinstance(failure, Failed)
        assert failure.category == "cancelled"
    assert "cancelled inside" in [line for _, _, line in output]


async def test_a_cancellation_follows_a_timeout_into_the_clean_up() -> None:
    async with one_child() as child:
        assert await ask(child, "stubborn") == Progress(1, 0, "")
        child.interrupt(1, InterruptReason.TIMEOUT)
        assert await hear(child) == Progress(1, 1, "cleaning up")
        child.interrupt(1, InterruptReason.LEASE_LOST)
        assert await hear(child) == Failed("Cancelled: the lease was lost", "cancelled")


async def test_the_context_tells_that_the_attempt_is_cancelled() -> None:
    async with one_child() as child:
        assert await ask(child, "swallow") == Progress(1, 0, "")
        child.interrupt(1, InterruptReason.CANCELLED)
        assert await hear(child) == Completed(b"true")
        assert b'"cancelled": false' in await last_result(child, "context")


async def last_result(child: Child, kind: str) -> bytes:
    message = await ask(child, kind)
    while isinstance(message, Progress):
        message = await hear(child)
    assert isinstance(message, Completed)
    return message.result


async def test_a_drain_shows_while_a_handler_runs() -> None:
    async with one_child() as child:
        assert await ask(child, "until-drain") == Progress(1, 0, "")
        await child.announce(Drain())
        assert await hear(child) == Completed(b'"drained"')


async def test_an_interrupt_that_comes_after_the_handler_has_returned_is_ignored() -> None:
    async with one_child() as child:
        assert await ask(child, "slow-result") == Progress(1, 99, "encoding")
        child.interrupt(1, InterruptReason.TIMEOUT)
        assert await hear(child) == Completed(b'{"a": 1}')
        assert await ask(child, "echo", b"on") == Completed(b"on")


async def test_an_interrupt_does_not_tear_what_is_being_sent_in_either_direction() -> None:
    async with one_child() as child:
        for reason in InterruptReason:
            await ask(child, "progress-storm")
            child.interrupt(1, reason)
            assert isinstance(await hear_end(child), Failed)
        os.kill(child.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.send, start("echo", bytes(1 << 23), task=2))
            await trio.testing.wait_all_tasks_blocked()
            child.interrupt(2, InterruptReason.TIMEOUT)
            os.kill(child.pid, signal.SIGCONT)
        assert isinstance(await hear_end(child), Completed | Failed)
        assert await ask(child, "echo", b"on") == Completed(b"on")


async def hear_end(child: Child) -> FromChild | Outcome | None:
    """Return what comes after the progress, of which a thread may have had some on its way when its handler ended."""
    while isinstance(message := await hear(child), Progress):
        pass
    return message


async def test_an_interrupt_that_comes_together_with_the_start_is_not_lost() -> None:
    async with one_child() as child:
        os.kill(child.pid, signal.SIGSTOP)
        await child.send(start("sleep", b"3600"))
        child.interrupt(1, InterruptReason.TIMEOUT)
        os.kill(child.pid, signal.SIGCONT)
        message = await hear(child)
        if isinstance(message, Progress):
            message = await hear(child)
        assert message in (
            Completed(b'"cleaned up"'),
            Failed("SoftTimeout: the handler's timeout is over", "timeout"),
        )


async def test_an_interrupt_for_another_execution_or_too_late_is_ignored() -> None:
    async with one_child() as child:
        child.interrupt(1, InterruptReason.TIMEOUT)
        await child.send(start("sleep", b"0.05", task=2))
        child.interrupt(1, InterruptReason.TIMEOUT)
        assert await hear(child) == Progress(2, 0, "asleep")
        assert await hear(child) == Completed(b'"slept"')
        child.interrupt(2, InterruptReason.TIMEOUT)
        assert await ask(child, "echo", b"on") == Completed(b"on")
