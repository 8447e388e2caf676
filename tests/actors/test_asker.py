from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from ffsuper.actors import asker
from ffsuper.channels import Candidates, Demand
from ffsuper.errors import ServerAwayError, ServerError, ServerRefusedError
from ffsuper.grants import Grants
from ffsuper.messages import Candidate, ClaimKind, ExecutionId, LaneId
from tests.fakes import HOUR_S, named, pulses

LANES = (LaneId("a"), LaneId("b"))
POLL_S = 10.0


class FakeGrants(Grants):
    """Grants what is waiting in each lane.

    Attributes:
        waiting: executions by lane.
        asked: the lane of each request, and when it came.
        takes_s: how long an answer takes.
        waits: whether the server waits for something to come, until ``has_come``.
        error: raised in place of an answer.
    """

    def __init__(self, **waiting: int) -> None:
        self.waiting = Counter(waiting)
        self.asked: list[tuple[str, float]] = []
        self.takes_s = 0.0
        self.waits = False
        self.has_come = trio.Event()
        self.error: ServerError | None = None

    async def ask(self, lane: LaneId, wait_s: float = 0.0) -> Candidate | None:
        self.asked.append((lane, trio.current_time()))
        await trio.sleep(self.takes_s)
        if self.waits and not self.waiting[lane]:
            with trio.move_on_after(wait_s):
                await self.has_come.wait()
        if self.error:
            raise self.error
        if not self.waiting[lane]:
            return None
        self.waiting[lane] -= 1
        execution = ExecutionId(f"{{fp:0}}:{lane}-{self.waiting[lane]}")
        return Candidate(execution, lane, ClaimKind.NEW, "", is_granted=True)


@dataclass
class Ends:
    """The far ends of the asker's channels."""

    demands: trio.MemorySendChannel[Demand]
    candidates: trio.MemoryReceiveChannel[Candidates]
    retired: trio.Event

    async def found(self) -> ExecutionId:
        """Take one candidate."""
        (candidate,) = named(await self.candidates.receive())
        assert candidate.is_granted
        return candidate.execution_id


@asynccontextmanager
async def asking(grants: FakeGrants, lanes: tuple[LaneId, ...] = LANES) -> AsyncIterator[Ends]:
    demands_send, demands = trio.open_memory_channel[Demand](math.inf)
    candidates_send, candidates = trio.open_memory_channel[Candidates](0)
    retired = trio.Event()
    with trio.fail_after(10 * HOUR_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                asker.run, grants, lanes, POLL_S, demands, candidates_send, retired, trio.current_time, pulses()
            )
            async with demands_send, candidates:
                yield Ends(demands_send, candidates, retired)
                nursery.cancel_scope.cancel()


async def test_nothing_is_asked_before_something_is_wanted(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants(a=1)
    async with asking(grants):
        await trio.sleep(HOUR_S)
        assert grants.asked == []


async def test_no_more_is_asked_for_than_is_wanted(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants(a=5, b=5)
    async with asking(grants) as ends:
        await ends.demands.send(Demand(2))
        await ends.demands.send(Demand(1))
        for _ in range(3):
            await ends.found()
        await trio.sleep(HOUR_S)
        assert grants.waiting.total() == 7
        assert len(grants.asked) == 3


async def test_what_is_not_wanted_any_more_is_not_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants(a=5)
    async with asking(grants) as ends:
        ends.demands.send_nowait(Demand(2))
        ends.demands.send_nowait(Demand(-2))
        await trio.sleep(HOUR_S)
        assert grants.asked == []


async def test_a_grant_that_came_too_late_waits_for_the_next_slot(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants(a=2)
    grants.takes_s = 1.0
    async with asking(grants) as ends:
        await ends.demands.send(Demand(1))
        await trio.sleep(0.5)
        await ends.demands.send(Demand(-1))
        await trio.sleep(5)
        await ends.demands.send(Demand(1))
        await ends.found()
        await trio.sleep(HOUR_S)
        assert len(grants.asked) == 1


async def test_lanes_are_asked_in_turn(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants(a=3, b=3)
    async with asking(grants) as ends:
        await ends.demands.send(Demand(4))
        found = [await ends.found() for _ in range(4)]
        assert [lane for lane, _ in grants.asked] == ["a", "b", "a", "b"]
        assert len(set(found)) == 4


async def test_an_empty_lane_does_not_keep_another_waiting(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants(b=3)
    async with asking(grants) as ends:
        await ends.demands.send(Demand(3))
        for _ in range(3):
            await ends.found()
        assert trio.current_time() == grants.asked[0][1]


async def test_idle_lanes_are_asked_once_in_an_interval(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants()
    async with asking(grants) as ends:
        await ends.demands.send(Demand(1))
        await trio.sleep(100 * POLL_S)
        assert 85 < len(grants.asked) / 2 < 120
        assert len({at_s for _, at_s in grants.asked}) == len(grants.asked) / 2


async def test_a_server_that_waits_is_asked_again_at_once(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants()
    grants.waits = True
    async with asking(grants, LANES[:1]) as ends:
        await ends.demands.send(Demand(1))
        await trio.sleep(10 * asker.LONGEST_WAIT_S)
        assert len(grants.asked) in (10, 11)
        began_s = trio.current_time()
        grants.waiting["a"] += 1
        grants.has_come.set()
        await ends.found()
        assert trio.current_time() == began_s


async def test_no_lane_is_waited_at_while_there_are_others(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants()
    grants.waits = True
    async with asking(grants) as ends:
        await ends.demands.send(Demand(1))
        await trio.sleep(100 * POLL_S)
        assert 85 < len(grants.asked) / 2 < 120


async def test_a_server_that_waits_does_not_keep_a_worker(autojump_clock: trio.testing.MockClock) -> None:
    grants, others_go_on = FakeGrants(), False
    grants.waits = True
    async with asking(grants, LANES[:1]) as ends:
        await ends.demands.send(Demand(1))
        await trio.testing.wait_all_tasks_blocked()
        began_s = trio.current_time()
        await ends.demands.aclose()
        with pytest.raises(trio.EndOfChannel):
            await ends.found()
        assert trio.current_time() == began_s
        await trio.sleep(1)
        others_go_on = True
    assert others_go_on


async def test_what_is_wanted_meanwhile_is_not_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    grants = FakeGrants()
    grants.waits = True
    async with asking(grants, LANES[:1]) as ends:
        await ends.demands.send(Demand(1))
        await trio.sleep(1)
        await ends.demands.send(Demand(2))
        grants.waiting["a"] = 5
        grants.has_come.set()
        for _ in range(3):
            await ends.found()
        await trio.sleep(HOUR_S)
        assert grants.waiting["a"] == 2


def tell(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.message) for record in caplog.records]


async def test_a_server_that_is_away_is_asked_again_soon_and_told_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    grants = FakeGrants(a=2)
    grants.error = ServerAwayError("503")
    async with asking(grants) as ends:
        await ends.demands.send(Demand(2))
        await trio.sleep(HOUR_S)
        assert 1_800 < len(grants.asked) < 3_700
        grants.error = None
        await ends.found()
        assert tell(caplog) == [("WARNING", "server away"), ("INFO", "server back")]
        assert grants.asked[1][1] - grants.asked[0][1] < 0.1


async def test_a_server_that_refuses_is_asked_again_slowly_and_told_as_an_error(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    grants = FakeGrants(a=1)
    grants.error = ServerRefusedError("401 missing or invalid Authorization header")
    async with asking(grants) as ends:
        await ends.demands.send(Demand(1))
        await trio.sleep(HOUR_S)
        assert 110 < len(grants.asked) < 260
        grants.error = None
        await ends.found()
        assert tell(caplog) == [("ERROR", "server refuses"), ("INFO", "server back")]


async def test_another_refusal_is_told_too_but_not_another_way_of_being_away(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    grants = FakeGrants()
    async with asking(grants) as ends:
        await ends.demands.send(Demand(1))
        for error in (
            *(ServerAwayError("disconnected"), ServerAwayError("not listening")),
            *(ServerRefusedError("401"), ServerRefusedError("403")),
        ):
            grants.error = error
            await trio.sleep(100)
        assert tell(caplog) == [("WARNING", "server away"), ("ERROR", "server refuses"), ("ERROR", "server refuses")]


async def test_it_ends_when_nobody_can_want_anything(autojump_clock: trio.testing.MockClock) -> None:
    async with asking(FakeGrants(a=2)) as ends:
        await ends.demands.send(Demand(1))
        await trio.testing.wait_all_tasks_blocked()
        await ends.demands.aclose()
        await ends.found()  # it was on its way
        with pytest.raises(trio.EndOfChannel):
            await ends.found()


async def test_it_ends_when_nobody_takes_candidates(autojump_clock: trio.testing.MockClock) -> None:
    async with asking(FakeGrants(a=1)) as ends:
        await ends.candidates.aclose()
        await ends.demands.send(Demand(1))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await ends.demands.send(Demand(1))


@pytest.mark.parametrize("waits", ["demand", "answer", "claimer", "interval", "server"])
async def test_it_is_cancelled_wherever_it_waits(autojump_clock: trio.testing.MockClock, waits: str) -> None:
    grants = FakeGrants(a=int(waits == "claimer"))
    grants.takes_s = HOUR_S if waits == "answer" else 0.0
    grants.error = ServerAwayError("gone") if waits == "server" else None
    async with asking(grants) as ends:
        if waits != "demand":
            await ends.demands.send(Demand(1))
        await trio.testing.wait_all_tasks_blocked()


async def test_a_grant_that_is_on_its_way_when_it_retires_is_still_handed_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grants = FakeGrants(a=2)
    grants.takes_s = asker.ANSWER_S / 2
    async with asking(grants) as ends:
        await ends.demands.send(Demand(2))
        await trio.testing.wait_all_tasks_blocked()
        ends.retired.set()
        await ends.found()
        with pytest.raises(trio.EndOfChannel):
            await ends.candidates.receive()
        assert len(grants.asked) == 1


@pytest.mark.parametrize("wanted", [0, 1])
async def test_an_answer_that_does_not_come_keeps_no_one_from_retiring(
    wanted: int, autojump_clock: trio.testing.MockClock
) -> None:
    grants = FakeGrants()
    grants.takes_s = HOUR_S
    async with asking(grants) as ends:
        await ends.demands.send(Demand(wanted))
        await trio.testing.wait_all_tasks_blocked()
        ends.retired.set()
        with pytest.raises(trio.EndOfChannel):
            await ends.candidates.receive()
        assert trio.current_time() <= asker.ANSWER_S
