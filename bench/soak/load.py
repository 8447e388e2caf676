"""What is submitted, at a steady pace whatever becomes of it, and what is done about it until it has ended."""

from __future__ import annotations

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from ffsuper.client import Client
from ffsuper.errors import LeaseLostError
from ffsuper.messages import FINAL_STATES, ExecutionId

PLAIN, ASYNC = "soak", "soak-async"
# Ended executions are deleted so soon, that what the store keeps is level within minutes.
RETENTION_MS = 60_000
POLICY = {
    "stream_policy": {"retention_ttl_ms": RETENTION_MS},
    "retry_policy": {"max_retries": 10, "backoff": {"type": "fixed", "delay_ms": 200}},
}
LARGE_BYTES = 100_000
FRAME = "x" * 1_000
FOLLOW_S = 0.2
PROBE_S = 1.0
PROBE_LOOK_S = 0.001
PROBE_LIMIT_S = 30.0
# Executions that have not ended: with more, the workers do not keep up, and nothing can be said.
MOST_OPEN = 10_000


class SoakError(Exception):
    """It could not be measured."""


@dataclass(frozen=True, slots=True)
class Work:
    """One sort of work.

    Attributes:
        weight: how often it comes, as a part of the sum of all weights.
        measure: what its handler marks first; empty where that is not measured.
        then: what is done about it when it is suspended, or runs, or is delayed.
        echoes: the result is the payload.
    """

    kind: str
    weight: float
    lane: str = PLAIN
    payload: Callable[[random.Random], object] = lambda _: b""
    delay: Callable[[random.Random], float | None] = lambda _: None
    measure: str = ""
    then: Literal["", "signal", "cancel"] = ""
    ends: str = "completed"
    echoes: bool = False


def some_seconds(chance: random.Random) -> float:
    """Return a time for which a handler lingers: short mostly."""
    return chance.uniform(0.1, 1.0) if chance.random() < 0.8 else chance.uniform(1.0, 5.0)


def large(chance: random.Random) -> bytes:
    """Return a payload that is no other's."""
    return chance.randbytes(LARGE_BYTES)


FLOW = "flow"
MIX = (
    Work("no-op", 30, measure="start"),
    Work("no-op", 4, delay=lambda chance: chance.uniform(0.5, 5.0)),
    Work("no-op", 0.5, delay=lambda _: 600.0, then="cancel", ends="cancelled"),
    Work("compute", 10, payload=lambda chance: chance.randrange(100, 2_000)),
    Work("linger", 4, payload=some_seconds),
    Work("echo", 2, payload=large, echoes=True),
    Work("stream", 2, payload=lambda _: FRAME),
    Work("fail-once", 5),
    Work("defer-once", 2),
    Work("approval", 2.5, then="signal"),
    Work("until-cancelled", 1, then="cancel", ends="cancelled"),
    Work("yielding", 0.5),
    Work("stubborn", 0.2),
    Work("leave", 0.3),
    Work("segfault", 0.3),
    Work("hoard", 0.15),
    Work(FLOW, 0.5),
    Work("async-no-op", 20, ASYNC, measure="async start"),
    Work("async-linger", 6, ASYNC, payload=some_seconds),
    Work("async-echo", 1, ASYNC, payload=large, echoes=True),
    Work("async-stream", 3, ASYNC, payload=lambda _: FRAME),
    Work("async-fail-once", 3, ASYNC),
    Work("async-approval", 2, ASYNC, then="signal"),
    Work("async-until-cancelled", 1, ASYNC, then="cancel", ends="cancelled"),
    Work("async-leave", 0.2, ASYNC),
)
PROBE = Work("no-op", 0, measure="start")
# Executions for one of weight 1, in a round.
ROUND = 20


def dealt(chance: random.Random) -> Iterator[Work]:
    """Yield works without end, each spread evenly: how much the store holds hangs on few large ones."""
    while True:
        places = list[tuple[float, Work]]()
        for one in MIX:
            count = round(one.weight * ROUND)
            places += [((number + chance.random()) / count, one) for number in range(count)]
        yield from (one for _, one in sorted(places, key=lambda place: place[0]))


@dataclass(slots=True)
class Open:
    """An execution that has not ended, as far as is known."""

    work: Work
    ends: str
    expected: bytes | None = None
    is_dealt_with: bool = False


@dataclass(slots=True)
class Load:
    """The submitter, and what it knows.

    Attributes:
        open: executions that have not ended.
        ends: kind to state to how many have ended so.
        wrong: what has ended otherwise than it should, or is gone.
        asked_s: measure and execution to when it was asked for, on the monotonic clock.
        results_s: of the probes since they were last taken: from before the submission to the result.
    """

    url: str
    rate: float
    chance: random.Random
    open: dict[ExecutionId, Open] = field(default_factory=dict)
    ends: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    wrong: list[str] = field(default_factory=list)
    asked_s: dict[tuple[str, str], float] = field(default_factory=dict)
    results_s: list[float] = field(default_factory=list)
    submitted: int = 0
    ended: int = 0

    async def submit(self, until_s: float) -> None:
        """Submit at uneven intervals, whether the workers keep up or not."""
        at_s, works = trio.current_time(), dealt(self.chance)
        with Client(self.url) as client:
            while (at_s := at_s - math.log(1 - self.chance.random()) / self.rate) < until_s:
                await trio.sleep_until(at_s)
                work = next(works)
                if work.kind == FLOW:
                    is_failing = self.chance.random() < 0.25
                    self._entered(await trio.to_thread.run_sync(self._flow, client, work, is_failing))
                else:
                    self._entered([await trio.to_thread.run_sync(self._one, client, work)])
                if len(self.open) > MOST_OPEN:
                    raise SoakError(f"{len(self.open)} executions are open: the workers do not keep up")

    async def probe(self, until_s: float) -> None:
        """Submit no-ops one after the other, each watched until its result is there."""
        with Client(self.url) as client:
            while trio.current_time() < until_s:
                entered = await trio.to_thread.run_sync(self._probe, client)
                self._entered([entered])
                await trio.sleep(PROBE_S)

    async def follow(self) -> None:
        """See what becomes of everything; signal what is suspended, and cancel what is to be cancelled."""
        with Client(self.url) as client:
            while True:
                await trio.sleep(FOLLOW_S)
                ids = list(self.open)
                states = await trio.to_thread.run_sync(client.states, ids)
                for execution, state in zip(ids, states, strict=True):
                    if state is None or state in FINAL_STATES:
                        await trio.to_thread.run_sync(self._close, client, execution, state)
                    elif not self.open[execution].is_dealt_with:
                        await self._deal_with(client, execution, state)

    async def wait_ended(self) -> None:
        """Wait until nothing is open."""
        while self.open:  # noqa: ASYNC110 -- ``follow`` looks as often
            await trio.sleep(FOLLOW_S)

    async def _deal_with(self, client: Client, execution: ExecutionId, state: str) -> None:
        known = self.open[execution]
        if known.work.then == "signal" and state == "suspended":
            await trio.to_thread.run_sync(self._signal, client, execution)
            known.is_dealt_with = True
        elif known.work.then == "cancel" and state in ("active", "delayed"):
            # What has just lost its child is elsewhere meanwhile: the next look finds it.
            with suppress(LeaseLostError):
                await trio.to_thread.run_sync(client.cancel, execution)
                known.is_dealt_with = True

    def _signal(self, client: Client, execution: ExecutionId) -> None:
        self.asked_s["signal", execution] = time.monotonic()
        client.signal(execution, "go", "yes")

    def _close(self, client: Client, execution: ExecutionId, state: str | None) -> None:
        known = self.open[execution]
        if state != known.ends:
            self.wrong.append(f"{execution}, {known.work.kind}: {state or 'gone'} instead of {known.ends}")
        elif known.expected is not None and client.result(execution) != known.expected:
            self.wrong.append(f"{execution}, {known.work.kind}: another result than its payload")
        del self.open[execution]
        self.ends[known.work.kind][state or "gone"] += 1
        self.ended += 1

    def _entered(self, entered: list[tuple[ExecutionId, Open]]) -> None:
        self.open.update(entered)
        self.submitted += len(entered)

    def _one(self, client: Client, work: Work) -> tuple[ExecutionId, Open]:
        payload, delay = work.payload(self.chance), work.delay(self.chance)
        asked_s = time.monotonic()
        execution = client.submit(work.kind, payload, lane=work.lane, delay=delay, policy=POLICY)
        if work.measure:
            self.asked_s[work.measure, execution] = asked_s
        return execution, Open(work, work.ends, payload if work.echoes and isinstance(payload, bytes) else None)

    def _probe(self, client: Client) -> tuple[ExecutionId, Open]:
        asked_s = time.monotonic()
        execution, known = self._one(client, PROBE)
        while client.state(execution) not in FINAL_STATES and time.monotonic() - asked_s < PROBE_LIMIT_S:
            time.sleep(PROBE_LOOK_S)
        self.results_s.append(time.monotonic() - asked_s)
        return execution, known

    def _flow(self, client: Client, work: Work, is_failing: bool) -> list[tuple[ExecutionId, Open]]:
        """Submit a diamond; one of its sides may fail, and then its end is skipped."""

        def entered() -> Iterator[tuple[ExecutionId, Open]]:
            flow = client.create_flow("soak")
            options: dict[str, Any] = {"lane": PLAIN, "policy": POLICY}
            top = flow.add("member", "top", **options)
            left = flow.add("member", passing=top, **options)
            right = flow.add("fail-for-good" if is_failing else "member", after=[top], **options)
            bottom = flow.add("member", after=[left, right], **options)
            yield from ((one, Open(work, "completed")) for one in (top, left))
            yield right, Open(work, "failed" if is_failing else "completed")
            yield bottom, Open(work, "skipped" if is_failing else "completed")

        return list(entered())
