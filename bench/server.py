"""The server on a private store: what grants cost, what workers that wait cost, and how soon these hear.

    python -m bench.server [--executions N] [--rounds N]

Every round measures everything once, so that a noisy machine disturbs it alike.

The workers are trio tasks of this process, each with a kept connection and a request made beforehand, without an HTTP
library, so that they are never what is waited for: what they take is printed as the generator's, beside what the
server takes for the same answers. They claim nothing: what is granted is taken out of the lane's index with one ZREM,
whose answer nobody waits for. The engine is off, so that only the server's own work is counted. "In sequence" is the
protocol's own way without HTTP: one command after another on one connection.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import socket
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import redis
import trio

from ffsuper.client import Client
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio.partition import fnv1a64
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.submissions import Submission
from tests.redis_server import running_server
from tests.system.workers import Workers, eventually

PARTITIONS = 256
AT_ONCE = (1, 8, 64)
WAITING = 64
GRANT_TTL_MS = 30_000
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
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class Spent(NamedTuple):
    """What has been used so far, or within a span.

    Attributes:
        server_s: processor time of the server, its threads together; ``store_s`` and ``own_s`` of the others.
        commands: carried out by the store, those inside functions counted.
        functions: called over a connection.
        writes: of the store to its connections, so about one for each pipeline.
    """

    at_s: float
    server_s: float
    store_s: float
    own_s: float
    commands: float
    functions: float
    writes: float


@dataclass(frozen=True, slots=True)
class Bench:
    """A fresh store with a server."""

    client: Client
    store: redis.Redis
    server: psutil.Process
    port: int
    taking: Any
    taken: list[str] = field(default_factory=list)

    def spent(self) -> Spent:
        """Return what has been used so far."""
        info: Any = self.store.info("everything")
        server = self.server.cpu_times()
        return Spent(
            time.monotonic(),
            server.user + server.system,
            info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"],
            time.process_time(),
            info["total_commands_processed"] - len(self.taken),
            info["cmdstat_fcall"]["calls"],
            info["total_writes_processed"],
        )

    def since(self, before: Spent) -> Spent:
        """Return what has been used since then."""
        return Spent(*(now - then for now, then in zip(self.spent(), before, strict=True)))

    def take(self, lane: LaneId, execution: str) -> None:
        """Take an execution out of its lane, as a claim would."""
        self.taking.send_command("ZREM", eligible_of(lane, execution), execution)
        self.taken.append(execution)

    def fill(self, name: str, executions: int, *, is_spread: bool) -> LaneId:
        """Make a lane with so many executions, over all partitions or in the one that the client chooses."""
        lane = LaneId(name)
        ids = [
            ExecutionId(f"{{fp:{number % PARTITIONS}}}:{uuid.uuid4()}") if is_spread else self.client.new_id(lane)
            for number in range(executions)
        ]
        random.shuffle(ids)
        self.client.submit_many([Submission(execution_id=one, lane=lane, execution_kind="bench") for one in ids])
        return lane


@contextmanager
def running() -> Iterator[Bench]:
    """Provide one."""
    with (
        tempfile.TemporaryDirectory() as name,
        running_server(Path(name)) as url,
        Client(url) as client,
        redis.Redis.from_url(url, protocol=2) as store,
    ):
        workers = Workers(Path(name), url)
        try:
            port = free_port()
            server = workers.launch_server("server", listen=f"127.0.0.1:{port}", engine="false")
            server.wait_for("ready")
            eventually(lambda: is_reached(port), "the server")
            taking: Any = store.connection_pool.make_connection()
            taking.connect()
            taking.send_command("CLIENT", "REPLY", "OFF")
            yield Bench(client, store, psutil.Process(server.process.pid), port, taking)
            taking.disconnect()
        finally:
            workers.end_all()


def eligible_of(lane: LaneId, execution: str) -> str:
    """Return the index that an execution waits in."""
    return ExecutionKeys.of(ExecutionId(execution)).partition.lane(lane, "eligible")


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_reached(port: int) -> bool:
    """Tell whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- workers ----------------------------------------------------------------------------------------------------


class Worker:
    """A worker with a connection of its own.

    Args:
        wait_ms: for how long the server may wait for work; None for not naming it.
    """

    def __init__(self, stream: trio.SocketStream, number: int, lane: LaneId, wait_ms: int | None) -> None:
        wanted: dict[str, Any] = {
            "lane_id": lane,
            "worker_instance_id": f"worker-{number}",
            "capabilities": [],
            "grant_ttl_ms": GRANT_TTL_MS,
        }
        body = json.dumps(wanted if wait_ms is None else wanted | {"wait_ms": wait_ms})
        head = f"POST /v1/workers/worker-{number}/claim HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        self._request = f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()
        self._stream = stream

    async def ask(self) -> str | None:
        """Return the execution that was granted; None when there was none."""
        await self._stream.send_all(self._request)
        read = b""
        while b"\r\n\r\n" not in read:
            read += await self._receive()
        head, _, content = read.partition(b"\r\n\r\n")
        status = head.split(maxsplit=2)[1]
        if status == b"204":
            return None
        length = LENGTH.search(head)
        if status != b"200" or length is None:
            raise SystemExit(f"the server answers: {read!r}")
        while len(content) < int(length[1]):
            content += await self._receive()
        return str(json.loads(content)["execution_id"])

    async def _receive(self) -> bytes:
        some = await self._stream.receive_some()
        if not some:
            raise SystemExit("the server has closed a connection")
        return bytes(some)


class Answer(NamedTuple):
    """One answer, with a grant or with nothing."""

    execution: str | None
    asked_s: float
    answered_s: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """Workers that ask again and again.

    Attributes:
        pause_s: about so long between an answer and the next question.
        most: after so many grants they ask no more.
    """

    bench: Bench
    lane: LaneId
    size: int
    wait_ms: int | None = None
    pause_s: float = 0.0
    most: float = math.inf
    is_over: trio.Event = field(default_factory=trio.Event)

    async def work(self, number: int, told: Callable[[Answer], None]) -> None:
        """Be one of them, until all is over."""
        async with await trio.open_tcp_stream("127.0.0.1", self.bench.port) as stream:
            worker = Worker(stream, number, self.lane, self.wait_ms)
            await trio.sleep(self.pause_s * random.random())
            while not self.is_over.is_set():
                asked_s = time.monotonic()
                execution = await worker.ask()
                told(Answer(execution, asked_s, time.monotonic()))
                if execution is not None:
                    self.bench.take(self.lane, execution)
                if self.pause_s:
                    await trio.sleep(self.pause_s * (0.75 + 0.5 * random.random()))

    async def observe(self, warm_up_s: float, span_s: float, open_s: float) -> Seen:
        """Let them ask for a while; then wait so long for the answers that are still to come."""
        answers, enough = list[Answer](), len(self.bench.taken) + self.most

        def told(answer: Answer) -> None:
            answers.append(answer)
            if len(self.bench.taken) >= enough:
                self.is_over.set()

        async with trio.open_nursery() as nursery:
            for number in range(self.size):
                nursery.start_soon(self.work, number, told)
            await trio.sleep(warm_up_s)
            if self.is_over.is_set():
                raise SystemExit("a lane was half empty before its time: more --executions, please")
            before = self.bench.spent()
            with trio.move_on_after(span_s):
                await self.is_over.wait()
            spent = self.bench.since(before)
            self.is_over.set()
            nursery.cancel_scope.deadline = trio.current_time() + open_s
        end_s = before.at_s + spent.at_s
        within = [one for one in answers if before.at_s <= one.answered_s < end_s]
        asked = [one for one in answers if before.at_s <= one.asked_s < end_s]
        made = sum(one.execution is not None for one in within)
        return Seen(
            spent,
            made,
            len(within) - made,
            [one.answered_s - one.asked_s for one in asked if one.execution or not made],
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """A span of time.

    Attributes:
        took_s: from question to answer, of the grants asked for within it; of all answers if there were none.
    """

    spent: Spent
    grants: int
    nothing: int
    took_s: Sequence[float]


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
