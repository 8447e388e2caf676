"""What users test their handlers with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing

from ffsuper import AsyncContext, Context, Fatal, Suspend, handler
from ffsuper.child import registry
from ffsuper.child.context import Usage
from ffsuper.child.outcomes import Defer
from ffsuper.child.payload import PayloadError
from ffsuper.messages import Deferred, OnTimeout, Suspended
from ffsuper.testing import Engine, ffsuper_engine, private_engine, run_async_handler, run_handler, signal

__all__ = ["ffsuper_engine"]


@dataclass
class Job:
    url: str
    width: int = 200


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Register this module's handlers for the time of a test only."""
    before = dict(registry.HANDLERS)
    for kind, function in FUNCTIONS.items():
        handler(kind)(function)
    yield
    registry.HANDLERS.clear()
    registry.HANDLERS.update(before)


def thumbnail(ctx: Context, job: Job) -> dict[str, Any]:
    ctx.progress(50, "half way")
    for number in range(100):
        ctx.emit(f"line {number}", metadata=str(number))
    return {"width": job.width, "attempt": [ctx.attempt_index, ctx.attempt_type], "tags": dict(ctx.tags)}


def approval(ctx: Context) -> str:
    if ctx.signals:
        return ctx.signals[0].payload.decode()
    point = ctx.create_waitpoint()
    raise Suspend("approved", waitpoint=point)


def spender(ctx: Context) -> str:
    return ctx.report_usage("11111111-1111-1111-1111-111111111111", {"tokens": 5}).status


def leaver(ctx: Context) -> Any:
    if ctx.draining:
        return Defer(datetime.fromtimestamp(5, UTC))
    raise Fatal(f"due {ctx.deadline}")


async def patient(ctx: AsyncContext) -> float:
    await ctx.emit("waiting")
    begun_s = trio.current_time()
    await trio.sleep(3600)
    return trio.current_time() - begun_s


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "thumbnail": thumbnail,
    "approval": approval,
    "spender": spender,
    "leaver": leaver,
    "patient": patient,
}


def test_a_handler_runs_with_a_typed_payload_and_what_it_did_is_told() -> None:
    run = run_handler(thumbnail, {"url": "a.png"}, attempt_index=2, attempt_type="retry", tags={"a": "b"})
    assert run.result == {"width": 200, "attempt": [2, "retry"], "tags": {"a": "b"}}
    assert run.progress == [(50, "half way")]
    assert run.frames[99] == ("output", b"line 99", "99")
    assert run.outcome is None


def test_a_payload_that_does_not_fit_is_raised() -> None:
    with pytest.raises(PayloadError, match="url"):
        run_handler(thumbnail, {})


def test_a_suspension_is_an_outcome_and_its_signals_bring_the_handler_back() -> None:
    run = run_handler(approval)
    (point,) = run.waitpoints
    assert run.outcome == Suspended("waiting_for_signal", ("approved",), False, None, OnTimeout.FAIL, point.id)
    assert run_handler(approval, signals=[signal("approved", b"yes")]).stored == b'"yes"'


def test_usage_can_be_answered_with_a_breach() -> None:
    run = run_handler(spender, answer_usage=lambda usage: Usage("hard_breach", "tokens", usage["tokens"], 4))
    assert (run.result, run.usage) == ("hard_breach", [("11111111-1111-1111-1111-111111111111", {"tokens": 5})])


def test_drain_and_deadline_are_as_given_and_errors_come_through() -> None:
    assert run_handler(leaver, draining=True).outcome == Deferred(5000)
    with pytest.raises(Fatal, match="due 2026-01-01"):
        run_handler(leaver, deadline=datetime(2026, 1, 1, tzinfo=UTC))


async def test_an_async_handler_lives_on_the_tests_clock(autojump_clock: trio.testing.MockClock) -> None:
    run = await run_async_handler(patient)
    assert run.result == pytest.approx(3600)
    assert [payload for _, payload, _ in run.frames] == [b"waiting"]
    with pytest.raises(ValueError, match="await run_async_handler"):
        run_handler(patient)


def test_a_function_that_is_no_handler_is_refused() -> None:
    with pytest.raises(ValueError, match="decorate it"):
        run_handler(signal)


def test_a_private_engine_runs_workers(ffsuper_engine: Engine) -> None:
    execution = ffsuper_engine.client.submit("echo", b"\x00\xff")
    with ffsuper_engine.worker("tests.system.handlers_for_tests", children={"count": 1}):
        assert ffsuper_engine.client.wait(execution, 30).state == "completed"
    assert ffsuper_engine.client.result(execution) == b"\x00\xff"


def test_engines_have_nothing_in_common() -> None:
    with private_engine() as one, private_engine() as other:
        execution = one.client.submit("job")
        assert json.dumps(other.client.states([execution])) == "[null]"
