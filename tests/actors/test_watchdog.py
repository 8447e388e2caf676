"""What systemd hears, in virtual time."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ffsuper.actors import watchdog
from ffsuper.sansio.pulse import Pulses
from ffsuper.systemd import Notifier

STUCK_S = 60.0


class Systemd(Notifier):
    """Keeps what is sent to it.

    Attributes:
        messages: what came, and when.
    """

    def __init__(self, watchdog_s: float | None = None) -> None:
        super().__init__({})
        self.watchdog_s = watchdog_s
        self.messages: list[tuple[str, float]] = []

    def _send(self, *lines: str, patience_s: float = 0.0) -> bool:
        self.messages.append(("\n".join(lines), trio.current_time()))
        return True

    def heard(self, word: str) -> list[tuple[str, float]]:
        return [one for one in self.messages if one[0].startswith(word)]


class Program:
    """What is watched."""

    def __init__(self) -> None:
        self.pulses = Pulses(trio.current_time)
        self.sentence = "Running"
        self.is_draining = False

    def stuck(self) -> list[str]:
        return self.pulses.stuck(STUCK_S)


@asynccontextmanager
async def watching(systemd: Systemd) -> AsyncIterator[Program]:
    program = Program()
    async with trio.open_nursery() as nursery:
        what = (systemd, program.stuck, lambda: program.sentence, lambda: program.is_draining)
        nursery.start_soon(watchdog.run, *what)
        yield program
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("watchdog_s", [None, 3.0, 30.0])
async def test_signs_of_life_come_several_times_within_the_watchdogs_limit(
    watchdog_s: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    systemd = Systemd(watchdog_s)
    async with watching(systemd):
        await trio.sleep(600)
    times = [at_s for _, at_s in systemd.heard("WATCHDOG=1")]
    assert max(later - sooner for sooner, later in itertools.pairwise(times)) <= (watchdog_s or 15) / 3


async def test_while_an_actor_is_stuck_there_is_no_sign_of_life_and_it_is_logged_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    systemd = Systemd()
    async with watching(systemd) as program:
        program.is_draining = True
        for _ in range(2):
            pulse = program.pulses.open("claimer")
        await trio.sleep(1_000)
        assert {at_s > STUCK_S for _, at_s in systemd.heard("WATCHDOG") + systemd.heard("EXTEND")} == {False}
        async with pulse, program.pulses.open("reporter"):
            await trio.sleep(1_000)
        assert [(one.message, one.__dict__["actor"]) for one in caplog.records if one.levelname == "ERROR"] == [
            ("actor stuck", "claimer"),
            ("actor stuck", "reporter"),
        ]
        await trio.sleep(10)
    assert [one.__dict__["actor"] for one in caplog.records if one.message == "actor stuck no more"] == ["reporter"]


async def test_an_actor_that_goes_on_brings_the_signs_of_life_back(autojump_clock: trio.testing.MockClock) -> None:
    systemd = Systemd()
    async with watching(systemd) as program:
        pulse = program.pulses.open("claimer")
        await trio.sleep(1_000)
        pulse.beat()
        await trio.sleep(10)
    assert systemd.heard("WATCHDOG=1")[-1][1] > 1_000


async def test_the_status_is_told_when_it_has_changed(autojump_clock: trio.testing.MockClock) -> None:
    systemd = Systemd()
    async with watching(systemd) as program:
        await trio.sleep(100)
        program.sentence = "Draining"
        await trio.sleep(100)
    assert [message for message, _ in systemd.heard("STATUS")] == ["STATUS=Running", "STATUS=Draining"]


async def test_only_a_drain_asks_for_more_time_and_always_before_that_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    systemd = Systemd(watchdog_s=120.0)
    async with watching(systemd) as program:
        await trio.sleep(100)
        assert systemd.heard("EXTEND") == []
        program.is_draining = True
        await trio.sleep(300)
    times = [at_s for _, at_s in systemd.heard("EXTEND_TIMEOUT_USEC=30000000")]
    assert times[-1] - times[0] > 280
    gaps_s = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert max(gaps_s) < watchdog.EXTENSION_S
