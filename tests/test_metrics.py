"""A scrape shows how the worker stands at that moment, in names and numbers that Prometheus understands."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from ffsuper.messages import LaneId, LeaseId, Offer
from ffsuper.metrics import A_SWEEP, look
from ffsuper.sansio.ledger import APART, BOUNDS_S, Ledger
from ffsuper.sansio.pulse import Pulses
from ffsuper.standing import Standing, State
from tests.sansio.test_ledger import claim

OPERATIONS = Path(__file__).parent.parent / "docs" / "operations.md"


def standing() -> Standing:
    offer = Offer((LaneId("default"),), "", ("job",), slots=4)
    return Standing(Pulses(trio.current_time), Ledger(), 60.0, offer, State.RUNNING)


class Scrape:
    """What Prometheus has read."""

    def __init__(self, one: Standing, instance_id: str = "worker-1") -> None:
        self.text = look(one, instance_id).text().decode()
        self.families = list(text_string_to_metric_families(self.text))
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Return the value of one series."""
        return self._values[name, frozenset(labels.items())]

    def values(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a metric by one of its labels."""
        return {dict(labels)[label]: value for (one, labels), value in self._values.items() if one == name}

    def names(self) -> set[str]:
        """Return the names of all metrics, as they are asked for."""
        return {family.name + ("_total" if family.type == "counter" else "") for family in self.families}


def finish(one: Standing, number: int, kind: str, outcome: str, seconds: float = 0.0) -> None:
    """Run an attempt."""
    one.ledger.began(claim(number, kind), 77, 0.0)
    one.ledger.ended(LeaseId(f"lease-{number}"), outcome, seconds)


async def test_who_the_worker_is_and_what_it_is_about(autojump_clock: trio.testing.MockClock) -> None:
    scrape = Scrape(standing(), "images@host")
    (version,) = scrape.values("ffsuper_worker_info", "version")
    assert scrape.value("ffsuper_worker_info", instance_id="images@host", version=version) == 1
    states = scrape.values("ffsuper_worker_state", "state")
    assert states == {"starting": 0, "running": 1, "quiet": 0, "draining": 0}
    assert scrape.value("ffsuper_slots") == 4


async def test_attempts_are_counted_by_lane_kind_and_outcome(autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    for number, outcome in enumerate(("completed", "completed", "failed", "suspended")):
        finish(one, number, "job", outcome)
    finish(one, 9, "other", "lost")
    scrape = Scrape(one)
    counted = "ffsuper_attempts_finished_total"
    job = {"lane": "default", "kind": "job"}
    assert scrape.value("ffsuper_attempts_begun_total", **job) == 4
    assert [scrape.value(counted, **job, outcome=outcome) for outcome in ("completed", "failed", "suspended")] == [
        2,
        1,
        1,
    ]
    assert scrape.value(counted, lane="default", kind="other", outcome="lost") == 1


async def test_what_may_go_wrong_is_counted_from_zero_so_that_the_first_time_is_an_increase(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one = standing()
    one.ledger.began(claim(), 77, 0.0)
    scrape = Scrape(one)
    outcomes = scrape.values("ffsuper_attempts_finished_total", "outcome")
    assert outcomes == {"completed": 0, "failed": 0, "lost": 0}
    assert set(scrape.values("ffsuper_leases_lost_total", "code").values()) == {0}
    assert scrape.values("ffsuper_child_deaths_total", "cause")["memory"] == 0
    one.ledger.deaths["memory"] += 1
    one.ledger.deaths["SIGBUS"] += 1
    one.ledger.lost["lease_expired"] += 2
    scrape = Scrape(one)
    deaths = scrape.values("ffsuper_child_deaths_total", "cause")
    assert (deaths["memory"], deaths["SIGBUS"], deaths["exit"]) == (1, 1, 0)
    assert scrape.value("ffsuper_leases_lost_total", code="lease_expired") == 2


async def test_durations_are_a_histogram_whose_buckets_hold_all_that_is_shorter(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one = standing()
    for number, seconds in enumerate((0.001, 0.2, 0.3, 10_000.0)):
        finish(one, number, "job", "completed", seconds)
    scrape = Scrape(one)
    buckets = {float(bound): count for bound, count in scrape.values("ffsuper_attempt_seconds_bucket", "le").items()}
    assert list(buckets) == [*BOUNDS_S, float("inf")]
    assert (buckets[0.005], buckets[0.25], buckets[0.5], buckets[7200.0], buckets[float("inf")]) == (1, 2, 3, 3, 4)
    job = {"lane": "default", "kind": "job"}
    assert scrape.value("ffsuper_attempt_seconds_count", **job) == 4
    assert scrape.value("ffsuper_attempt_seconds_sum", **job) == pytest.approx(10_000.501)


async def test_what_runs_and_for_how_long(autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    assert (Scrape(one).value("ffsuper_oldest_attempt_seconds"), len(one.ledger.running)) == (0, 0)
    for number in range(3):
        one.ledger.began(claim(number), 77, trio.current_time())
        await trio.sleep(10)
    scrape = Scrape(one)
    assert scrape.value("ffsuper_running_attempts") == 3
    assert scrape.value("ffsuper_oldest_attempt_seconds") == pytest.approx(30)


async def test_actors_and_how_long_they_have_been_silent(autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    resting = one.pulses.open("scanner")
    one.pulses.open("claimer")
    await trio.sleep(61)
    one.pulses.open("claimer")
    with resting.resting:
        scrape = Scrape(one)
    assert scrape.values("ffsuper_actor_silence_seconds", "actor") == {"claimer": pytest.approx(61), "scanner": 0}
    assert scrape.value("ffsuper_stuck_actors") == 1


async def test_the_store_and_the_alive_key(autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    assert (Scrape(one).value("ffsuper_alive_key_age_seconds"), one.store_answers) == (float("inf"), False)
    one.key_held_s, one.store_answers = trio.current_time(), True
    await trio.sleep(7)
    scrape = Scrape(one)
    assert scrape.value("ffsuper_alive_key_age_seconds") == pytest.approx(7)
    assert scrape.value("ffsuper_store_reachable") == 1


async def test_it_leads_while_it_sweeps(autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    assert Scrape(one).value("ffsuper_engine_leader") == 0
    async with one.pulses.open(A_SWEEP):
        assert Scrape(one).value("ffsuper_engine_leader") == 1
    assert Scrape(one).value("ffsuper_engine_leader") == 0


async def test_children_and_their_memory(autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    assert Scrape(one).value("ffsuper_largest_child_resident_bytes") == 0
    no_such_process = 2**22 + 1
    one.ledger.children |= {os.getpid(), no_such_process}
    scrape = Scrape(one)
    assert scrape.value("ffsuper_children") == 2
    assert (
        scrape.value("ffsuper_children_resident_bytes") == scrape.value("ffsuper_largest_child_resident_bytes") > 1e6
    )


async def test_the_process_itself_is_told_by_the_usual_names(autojump_clock: trio.testing.MockClock) -> None:
    scrape = Scrape(standing())
    for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds"):
        assert scrape.value(f"process_{name}") > 0


async def test_what_happens_after_the_look_is_not_in_the_text(autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    finish(one, 1, "job", "completed")
    seen = look(one, "worker-1")
    finish(one, 2, "job", "completed")
    finish(one, 3, "another", "completed")
    one.ledger.deaths["exit"] += 1
    text = seen.text().decode()
    assert 'ffsuper_attempts_begun_total{kind="job",lane="default"} 1.0' in text
    assert 'ffsuper_child_deaths_total{cause="exit"} 0.0' in text
    assert "another" not in text


@pytest.mark.parametrize("kind", ['a"b\\c\nd', "ünï", "\udcff", "x" * 1000, ""])
async def test_any_kind_that_is_in_the_store_can_be_shown(kind: str, autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    finish(one, 1, kind, "completed")
    (shown,) = Scrape(one).values("ffsuper_attempts_begun_total", "kind")
    assert shown == (kind if kind.isprintable() or "\n" in kind else "\\udcff")


async def test_metrics_are_named_as_prometheus_wants_them(autojump_clock: trio.testing.MockClock) -> None:
    for family in Scrape(standing()).families:
        assert re.fullmatch("(ffsuper|process)_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")


async def test_the_documentation_lists_all_of_them(autojump_clock: trio.testing.MockClock) -> None:
    one = standing()
    finish(one, 1, "job", "completed")
    (part,) = re.findall(
        r"^## Health and metrics\n(.*?)(?=^## )", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    listed = {
        name
        for row in re.findall(r"^\| (`ffsuper_.*?) \|", part, re.MULTILINE)
        for name in re.findall(r"`(\w+)", row)
    }
    assert listed == {name for name in Scrape(one).names() if name.startswith("ffsuper_")}


async def test_a_scrape_never_has_more_series_than_the_ledger_keeps_apart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    one = standing()
    for number in range(APART + 500):
        finish(one, number, f"kind-{number}", "completed", number)
    text = look(one, "worker-1").text()
    assert text.count(b"ffsuper_attempt_seconds_bucket{") == (APART + 1) * (len(BOUNDS_S) + 1)
