"""The engine on a private server: what it costs at rest, how late it is, what it does with very many entries.

    python -m bench.engine [--executions N] [--rounds N]

Every round measures everything once, so that a noisy machine disturbs it alike.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
import trio

from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.engine import unblock
from ffsuper.messages import ExecutionId, LaneId, SweepReport
from ffsuper.sansio.partition import PartitionCounts
from ffsuper.store import keys
from ffsuper.store.blocked import Blocked
from ffsuper.store.connection import open_connection
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.looks import indexes
from ffsuper.store.submissions import Submission
from tests.fakes import pulses
from tests.redis_server import running_server
from tests.system.workers import Worker, Workers, eventually

LANE = LaneId("default")
PARTITIONS = 256
IDLE_S = 10.0
DUE_WITHIN_S = 10.0
# Between the end of the submissions and the first that falls due.
HEAD_START_S = 3.0
BLOCKED = 10_000
WORKERS = 1_000
PIPELINE = 500
PAYLOAD = b"x" * 100


@dataclass(frozen=True, slots=True)
class Bench:
    """A fresh server, and what is needed to use it."""

    url: str
    client: Client
    store: redis.Redis
    workers: Workers

    def cpu_s(self) -> float:
        """Return the processor time that the server has taken."""
        info: Any = self.store.info("cpu")
        return float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])

    def commands(self) -> int:
        """Return how many commands the server has carried out, those of functions included."""
        info: Any = self.store.info("stats")
        return int(info["total_commands_processed"])

    def calls(self) -> int:
        """Return how many commands came over a connection."""
        stats: Any = self.store.info("commandstats")
        return int(stats["cmdstat_fcall"]["calls"])

    def memory(self) -> int:
        """Return the bytes that the server uses for its data."""
        info: Any = self.store.info("memory")
        return int(info["used_memory"])

    def in_pipelines(self, commands: Iterator[tuple[Any, ...]]) -> list[Any]:
        """Carry out many commands."""
        replies: list[Any] = []
        while batch := list(itertools.islice(commands, PIPELINE)):
            pipe = self.store.pipeline(transaction=False)
            for command in batch:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            replies += pipe.execute()
        return replies


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
            yield Bench(url, client, store, workers)
        finally:
            workers.end_all()


def cpu_of(process: Worker) -> float:
    """Return the processor time that a process has taken."""
    used = psutil.Process(process.process.pid).cpu_times()
    return float(used.user + used.system)


def execution_ids(count: int) -> list[ExecutionId]:
    """Make up ids, over all partitions."""
    return [ExecutionId(f"{{fp:{number % PARTITIONS}}}:{uuid.uuid4()}") for number in range(count)]


def at_rest() -> dict[str, float]:
    """Measure a leading engine with 256 partitions and one lane, and nothing to do."""
    with running() as bench:
        engine = bench.workers.start_engine()
        engine.wait_for("engine leads")
        time.sleep(1.0)
        before = (bench.calls(), bench.commands(), bench.cpu_s(), cpu_of(engine))
        time.sleep(IDLE_S)
        after = (bench.calls(), bench.commands(), bench.cpu_s(), cpu_of(engine))
        calls, commands, server_s, engine_s = ((b - a) / IDLE_S for a, b in zip(before, after, strict=True))
        return {
            "at rest: function calls/s": calls,
            "at rest: commands/s, inside functions too": commands,
            "at rest: server CPU, % of a core": server_s * 100,
            "at rest: engine CPU, % of a core": engine_s * 100,
        }


def promotions(count: int) -> dict[str, float]:
    """Measure many delayed executions that fall due within seconds, and what they take in memory."""
    with running() as bench:
        empty = bench.memory()
        ids = execution_ids(count)
        # The last ones must be submitted before the first fall due; submitting takes some 50 us each.
        begins_ms = int(time.time() * 1000 + HEAD_START_S * 1000 + count * 0.15)
        due_ms = [begins_ms + int(number * DUE_WITHIN_S * 1000 / count) for number in range(count)]
        bench.client.submit_many(
            [
                Submission(execution_id=one, lane=LANE, execution_kind="bench", payload=PAYLOAD, delay_until_ms=at_ms)
                for one, at_ms in zip(ids, due_ms, strict=True)
            ]
        )
        if time.time() * 1000 > begins_ms:
            raise SystemExit("submitting took longer than the head start: fewer --executions, please")
        memory = (bench.memory() - empty) / count
        engine = bench.workers.start_engine()
        engine.wait_for("engine leads")
        server_s, engine_s = bench.cpu_s(), cpu_of(engine)
        delayed = [PartitionKeys.of_index(number).lane(LANE, "delayed") for number in range(PARTITIONS)]
        while bench.store.exists(*delayed):
            time.sleep(0.5)
        server_s, engine_s = bench.cpu_s() - server_s, cpu_of(engine) - engine_s
        promoted_at = bench.in_pipelines(("HGET", ExecutionKeys.of(one).core, "last_transition_at") for one in ids)
        late_ms = sorted(int(at) - due for at, due in zip(promoted_at, due_ms, strict=True))
        return {
            "delayed: late, ms, median": late_ms[count // 2],
            "delayed: late, ms, 99 of 100": late_ms[count * 99 // 100],
            "delayed: late, ms, most": late_ms[-1],
            "delayed: server CPU, us each": server_s / count * 1e6,
            "delayed: engine CPU, us each": engine_s / count * 1e6,
            "memory: waiting execution, bytes": memory,
        }


def blocked_passes() -> dict[str, float]:
    """Measure one unblock pass over many executions that nobody can run, and one that lets all of them go."""
    with running() as bench:
        ids = execution_ids(BLOCKED)
        bench.client.submit_many([Submission(execution_id=one, lane=LANE, execution_kind="bench") for one in ids])
        bench.in_pipelines(command for number, one in enumerate(ids) for command in blocking(one, number))
        bench.in_pipelines(command for number in range(WORKERS) for command in advertising(number, f"own-{number}"))
        stuck = one_pass(bench)
        bench.in_pipelines(iter(advertising(WORKERS, ",".join(sorted(f"rare-{number}" for number in range(100))))))
        freed = one_pass(bench)
        left = sum(
            bench.store.zcard(PartitionKeys.of_index(number).lane(LANE, "blocked:route"))
            for number in range(PARTITIONS)
        )
        if left:
            raise SystemExit(f"{left} executions were not let go")
        return {
            **{f"unblock, none of 10,000: {name}": value for name, value in stuck.items()},
            **{f"unblock, all 10,000: {name}": value for name, value in freed.items()},
        }


def blocking(execution: ExecutionId, number: int) -> list[tuple[Any, ...]]:
    """Return what blocks an execution for one of a hundred capabilities."""
    at = ExecutionKeys.of(execution)
    state = ("blocking_reason", "waiting_for_capable_worker", "required_capabilities", f"rare-{number % 100}")
    return [
        ("HSET", at.core, "eligibility_state", "blocked_by_route", *state),
        ("ZREM", at.partition.lane(LANE, "eligible"), execution),
        ("ZADD", at.partition.lane(LANE, "blocked:route"), number, execution),
    ]


def advertising(number: int, capabilities: str) -> list[tuple[Any, ...]]:
    """Return what a live worker has in the store."""
    name = f"worker-{number}"
    return [
        ("SET", keys.worker_capabilities(name), capabilities),
        ("SET", keys.worker_alive(name), "x"),
        ("SADD", keys.WORKERS, name),
        ("SADD", keys.OWN_WORKERS, name),
    ]


def one_pass(bench: Bench) -> dict[str, float]:
    """Measure one pass."""

    async def sweep() -> int:
        send, receive = trio.open_memory_channel[SweepReport](10_000)
        async with open_connection(StoreConfig(url=bench.url), "bench") as connection:
            blocked = Blocked(connection, PartitionCounts())
            present = await blocked.present(indexes("blocked:route", range(PARTITIONS), [LANE]))
            await unblock.sweep(blocked, present, send, pulses().open("bench"))
        return receive.statistics().current_buffer_used

    began_s, server_s, commands = time.monotonic(), bench.cpu_s(), bench.commands()
    trio.run(sweep)
    return {
        "ms": (time.monotonic() - began_s) * 1000,
        "server CPU, ms": (bench.cpu_s() - server_s) * 1000,
        "commands, inside functions too": bench.commands() - commands,
    }


def kept(count: int) -> dict[str, float]:
    """Measure what an execution that has completed takes, until its retention is over, and what is left then."""
    with running() as bench:
        empty = bench.memory()
        ids = bench.client.submit_many(
            [
                Submission(
                    execution_id=bench.client.new_id("default"),
                    lane=LANE,
                    execution_kind="echo",
                    payload=PAYLOAD,
                    policy={"stream_policy": {"retention_ttl_ms": 1}},
                )
                for _ in range(count)
            ]
        )
        worker = bench.workers.start(children=4, engine="false")
        eventually(lambda: bench.client.depth("default")["terminal"] == count, "all executions")
        worker.process.terminate()
        worker.wait()
        memory = bench.memory() - empty
        engine = bench.workers.start_engine()
        engine.wait_for("engine leads")
        eventually(lambda: bench.client.depth("default")["terminal"] == 0, "all executions to be deleted")
        if any(bench.client.states(ids)):
            raise SystemExit("executions are left")
        return {
            "memory: completed execution, bytes": memory / count,
            "memory: after its retention, bytes": (bench.memory() - empty) / count,
        }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [
        {**at_rest(), **promotions(options.executions), **blocked_passes(), **kept(options.executions)}
        for _ in range(options.rounds)
    ]
    print(f"{'':52}{'median':>10}{'lowest':>10}{'highest':>10}")
    for name in rounds[0]:
        print(row(name, [one[name] for one in rounds]))


def row(name: str, values: Sequence[float]) -> str:
    """Return one line: median, lowest, highest."""
    return f"{name:52}{statistics.median(values):10.1f}{min(values):10.1f}{max(values):10.1f}"


if __name__ == "__main__":
    main()
