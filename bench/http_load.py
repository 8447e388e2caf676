"""The load of ``bench.server``: a private store with a server, and workers that ask it for work over HTTP.

The workers are trio tasks of this process, each with a kept connection and a request made beforehand, without an HTTP
library, so that they are never what is waited for. They claim nothing: what is granted is taken out of the lane's
index with one ZREM, whose answer nobody waits for. The engine is off, so that only the server's own work is counted.
"""

from __future__ import annotations

import json
import math
import random
import re
import socket
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
from ffsuper.store.keys import ExecutionKeys
from ffsuper.store.submissions import Submission
from tests.redis_server import running_server
from tests.system.workers import Workers, eventually

PARTITIONS = 256
GRANT_TTL_MS = 30_000
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
