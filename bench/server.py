"""The server on a private store: what grants cost, what workers that wait cost, and how soon these hear.

    python -m bench.server [--executions N] [--rounds N]

Every round measures everything once, so that a noisy machine disturbs it alike.

What the workers of ``bench.http_load`` take is printed as the generator's, beside what the server takes for the same
answers. "In sequence" is the protocol's own way without HTTP: one command after another on one connection.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import redis
import trio

from bench.http_load import GRANT_TTL_MS, PARTITIONS, Answer, Bench, Crowd, eligible_of, running
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio.partition import fnv1a64
from ffsuper.store.keys import ExecutionKeys, PartitionKeys

AT_ONCE = (1, 8, 64)
WAITING = 64
WAIT_MS = 20_000
# As ffsuper's own worker pauses between two questions.
PAUSE_S = 0.2
WARM_UP_S = 1.0
SPAN_S = 6.0
# A question that is open at the end of the span is waited for, for its time counts too.
OPEN_S = 20.0
IDLE_WARM_UP_S = 1.5
IDLE_S = 10.0
SUBMISSIONS = 200
SUBMIT_WITHIN_S = 0.15
EMPTY = LaneId("empty")


# --- what is measured -------------------------------------------------------------------------------------------


def grants(bench: Bench, workers: int, executions: int, *, is_spread: bool) -> dict[str, float]:
    """Measure grants of a lane that is full, until it is half empty at the latest."""
    lane = bench.fill(f"{'spread' if is_spread else 'one'}-{workers}", executions, is_spread=is_spread)
    seen = trio.run(Crowd(bench, lane, workers, most=executions / 2).observe, WARM_UP_S, SPAN_S, OPEN_S)
    spent, made, answered = seen.spent, seen.grants, seen.grants + seen.nothing
    return {
        "grants/s": made / spent.at_s,
        "latency, ms, median": share(seen.took_s, 0.5) * 1000,
        "latency, ms, 99 of 100": share(seen.took_s, 0.99) * 1000,
        "answers with nothing, %": seen.nothing / answered * 100,
        "server CPU, us a grant": spent.server_s / made * 1e6,
        "store CPU, us a grant": spent.store_s / made * 1e6,
        "store commands a grant, inside functions too": spent.commands / made,
        "store function calls a grant": spent.functions / made,
        "store round trips a grant": spent.writes / made,
        "server CPU, % of a core": spent.server_s / spent.at_s * 100,
        "store CPU, % of a core": spent.store_s / spent.at_s * 100,
        "generator CPU, % of a core": spent.own_s / spent.at_s * 100,
        "generator CPU, us an answer": spent.own_s / answered * 1e6,
    }


def at_rest(bench: Bench, wait_ms: int | None, pause_s: float) -> dict[str, float]:
    """Measure many workers at an empty lane."""
    seen = trio.run(Crowd(bench, EMPTY, WAITING, wait_ms, pause_s).observe, IDLE_WARM_UP_S, IDLE_S, 0.0)
    spent = seen.spent
    return {
        "answers/s": seen.nothing / spent.at_s,
        "store commands/s, inside functions too": spent.commands / spent.at_s,
        "store function calls/s": spent.functions / spent.at_s,
        "server CPU, % of a core": spent.server_s / spent.at_s * 100,
        "store CPU, % of a core": spent.store_s / spent.at_s * 100,
    }


def nothing(bench: Bench) -> dict[str, float]:
    """Measure the answers that one worker gets at an empty lane."""
    seen = trio.run(Crowd(bench, EMPTY, 1).observe, WARM_UP_S, SPAN_S / 2, OPEN_S)
    return {
        "latency, ms, median": share(seen.took_s, 0.5) * 1000,
        "latency, ms, 99 of 100": share(seen.took_s, 0.99) * 1000,
        "server CPU, us an answer": seen.spent.server_s / seen.nothing * 1e6,
        "store CPU, us an answer": seen.spent.store_s / seen.nothing * 1e6,
        "generator CPU, us an answer": seen.spent.own_s / seen.nothing * 1e6,
    }


def submissions_heard(bench: Bench) -> dict[str, float]:
    """Measure how soon one of many waiting workers has what was submitted."""
    lane, submitted_s, answered_s = LaneId("awaited"), dict[str, float](), dict[str, float]()
    crowd = Crowd(bench, lane, WAITING, WAIT_MS)

    def told(answer: Answer) -> None:
        if answer.execution is not None:
            answered_s[answer.execution] = answer.answered_s
        if len(answered_s) == SUBMISSIONS:
            crowd.is_over.set()

    def submit() -> None:
        at_s = time.monotonic()
        submitted_s[bench.client.submit("bench", lane=lane)] = at_s

    async def all_heard() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(WAITING):
                nursery.start_soon(crowd.work, number, told)
            await trio.sleep(IDLE_WARM_UP_S)
            for _ in range(SUBMISSIONS):
                await trio.sleep(random.random() * SUBMIT_WITHIN_S)
                await trio.to_thread.run_sync(submit)
            with trio.fail_after(WAIT_MS / 1000):
                await crowd.is_over.wait()
            nursery.cancel_scope.cancel()

    trio.run(all_heard)
    late_s = [answered_s[execution] - at_s for execution, at_s in submitted_s.items()]
    return {
        "submission to answer, ms, median": share(late_s, 0.5) * 1000,
        "submission to answer, ms, 99 of 100": share(late_s, 0.99) * 1000,
    }


# --- the protocol's own way -------------------------------------------------------------------------------------


def granted_in_sequence(store: redis.Redis, lane: LaneId, instance: str) -> str | None:
    """Look at one partition after another, as the protocol describes it; None when there is nothing."""
    start = fnv1a64(instance.encode()) % 65_536 % PARTITIONS
    for offset in range(PARTITIONS):
        eligible = PartitionKeys.of_index((start + offset) % PARTITIONS).lane(lane, "eligible")
        found: Any = store.zrangebyscore(eligible, "-inf", "+inf", start=0, num=1)
        if not found:
            continue
        execution: str = found[0].decode()
        at = ExecutionKeys.of(ExecutionId(execution))
        store.time()
        for name in ("required_capabilities", "budget_ids", "quota_policy_id"):
            store.hget(at.core, name)
        granted: Any = store.fcall(
            "ff_issue_claim_grant",
            3,
            *(at.core, at.part("claim_grant"), eligible),
            *(execution, "worker", instance, lane, "", str(GRANT_TTL_MS), "", "", ""),
        )
        if granted[0] == 1:
            return execution
    return None


def in_sequence(bench: Bench, lane: LaneId, most: int) -> dict[str, float]:
    """Measure one worker that looks so, and is another one each time: its name decides where it begins."""
    took_s, before = list[float](), bench.spent()
    for number in range(most):
        asked_s = time.monotonic()
        if asked_s - before.at_s > SPAN_S / 2:
            break
        execution = granted_in_sequence(bench.store, lane, f"worker-{number}")
        took_s.append(time.monotonic() - asked_s)
        if execution is not None:
            # In turn here: a first member that is granted hides all others from the next question.
            bench.store.zrem(eligible_of(lane, execution), execution)
            bench.taken.append(execution)
        elif lane != EMPTY:
            raise SystemExit("a lane that is full has nothing")
    spent = bench.since(before)
    return {
        "answers/s": len(took_s) / sum(took_s),
        "latency, ms, median": share(took_s, 0.5) * 1000,
        "latency, ms, 99 of 100": share(took_s, 0.99) * 1000,
        "store CPU, us an answer": spent.store_s / len(took_s) * 1e6,
        "store commands an answer, inside functions too": spent.commands / len(took_s),
    }


# --- the table --------------------------------------------------------------------------------------------------


def one_round(executions: int) -> dict[str, float]:
    """Measure everything once."""
    found: dict[str, float] = {}

    def add(name: str, values: dict[str, float]) -> None:
        found.update({f"{name}: {what}": value for what, value in values.items()})

    with running() as bench:
        for where, is_spread in (("spread", True), ("one partition", False)):
            for size in AT_ONCE:
                add(f"{where}, {size} at once", grants(bench, size, executions, is_spread=is_spread))
            lane = bench.fill(f"in-sequence-{is_spread}", executions, is_spread=is_spread)
            add(f"{where}, in sequence", in_sequence(bench, lane, executions // 2))
            for size in AT_ONCE:
                ratio = found[f"{where}, {size} at once: grants/s"] / found[f"{where}, in sequence: answers/s"]
                add(f"{where}, {size} at once", {"grants/s, ratio to 1 in sequence": ratio})
        add("nothing, 1 at once", nothing(bench))
        add("nothing, in sequence", in_sequence(bench, EMPTY, executions))
        what = "latency, ms, median"
        add(
            "nothing, 1 at once",
            {f"{what}, ratio": found[f"nothing, 1 at once: {what}"] / found[f"nothing, in sequence: {what}"]},
        )
        add(f"nothing, {WAITING} with wait_ms", at_rest(bench, WAIT_MS, 0.0))
        add(f"nothing, {WAITING} every 200 ms", at_rest(bench, None, PAUSE_S))
        add(f"{WAITING} with wait_ms", submissions_heard(bench))
    return found


def share(values: Sequence[float], part: float) -> float:
    """Return the value below which this part of them is; not a number when there are none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def row(name: str, values: Sequence[float]) -> str:
    """Return one line: median, lowest, highest."""
    return f"{name:78}{statistics.median(values):11.3f}{min(values):11.3f}{max(values):11.3f}"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [one_round(options.executions) for _ in range(options.rounds)]
    print(f"{'':78}{'median':>11}{'lowest':>11}{'highest':>11}")
    for name in rounds[0]:
        print(row(name, [one[name] for one in rounds]))


if __name__ == "__main__":
    main()
