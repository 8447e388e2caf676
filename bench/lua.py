"""Server CPU of the Lua functions, as the server itself counts it.

Every round takes fresh executions through their lives, each step for many of them before the next, in pipelines, on a
private server that writes nothing to disk. What a call costs includes reading the command and writing the reply;
a function that does nothing, measured in the same round, says how much of it that is.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import redis

from ffsuper.messages import AttemptId, Candidate, ClaimKind, ExecutionId, Failed, LaneId, Lease, LeaseId, Pick
from ffsuper.sansio.scan import Place
from ffsuper.store import batch_claims, claim_calls, leases, libraries, outcomes, scans, submissions
from ffsuper.store.keys import ExecutionKeys, PartitionKeys
from ffsuper.store.replies import Part

Command = tuple[Part, ...]

PIPELINE = 100
GRANTED_AT_ONCE = 1_000  # a grant must not lapse before its claim, on a busy machine either
PARTITIONS = 8  # few enough that every index is longer than the server's compact form for small ones
LANE = LaneId("default")
WORKER = claim_calls.Identity("bench", "bench-1", capabilities="", lease_ttl_ms=600_000)
PAYLOAD = b"x" * 100
RETRY_POLICY = b'{"max_retries":3,"backoff":{"type":"fixed","delay_ms":60000}}'
CONDITION = (
    '{"allow_operator_override":true,"condition_type":"signal_set","minimum_signal_count":1,'
    '"required_signal_names":["approved"],"signal_match_mode":"any","timeout_behavior":"fail"}'
)
NOTHING = "#!lua name=nothing\nredis.register_function('nothing', function() end)"
PICKED = (1, 2, 8)  # executions claimed in one call; each comes with its context
ONE_BY_ONE = ("record", "grant", "claim", "context", "complete")
SUMS = {
    "grant+claim+complete": ("grant", "claim", "complete"),
    "found to completed": ONE_BY_ONE,
    **{f"the same, picked {size}": (f"picked, {size}", "complete") for size in PICKED},
}
PLACES = [Place(LaneId("idle"), partition) for partition in range(256)]
LOOKS = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """One execution of a round, with the lease that its first claim takes."""

    candidate: Candidate
    lease: Lease
    keys: ExecutionKeys
    waitpoint_id: str


def new_subject(number: int) -> Subject:
    """Make up an execution on one of the partitions."""
    execution_id = ExecutionId(f"{{fp:{number % PARTITIONS}}}:{uuid.uuid4()}")
    lease_id, attempt_id = LeaseId(str(uuid.uuid4())), AttemptId(str(uuid.uuid4()))
    return Subject(
        Candidate(execution_id, LANE, ClaimKind.NEW, execution_kind="bench"),
        Lease(execution_id, LANE, lease_id, 1, attempt_id, 0, WORKER.lease_ttl_ms, asked_at_s=0.0),
        ExecutionKeys.of(execution_id),
        str(uuid.uuid4()),
    )


# --- commands that ffsuper's store does not send itself ---------------------------------------------------------


def append(subject: Subject) -> Command:
    """Append a frame, as the stock worker does."""
    lease, keys = subject.lease, subject.keys
    return fcall(
        "ff_append_frame",
        (keys.core, keys.stream(0), keys.stream_meta(0)),
        (lease.execution_id, 0, lease.lease_id, 1, "delta", int(time.time() * 1000), PAYLOAD, "utf8", "", "worker"),
        (10_000, lease.attempt_id, 65_536),
    )


def suspend(subject: Subject) -> Command:
    """Suspend until a signal, without a timeout."""
    lease, keys, waitpoint_id = subject.lease, subject.keys, subject.waitpoint_id
    partition = keys.partition
    return fcall(
        "ff_suspend_execution",
        (
            *(keys.core, keys.attempt(0), keys.part("lease:current"), keys.part("lease:history")),
            *(partition.index("lease_expiry"), partition.worker_leases(WORKER.instance_id)),
            *(keys.part("suspension:current"), keys.waitpoint(waitpoint_id), keys.waitpoint(waitpoint_id, "signals")),
            *(partition.index("suspension_timeout"), partition.index("pending_waitpoint_expiry")),
            *(partition.lane(LANE, "active"), partition.lane(LANE, "suspended"), keys.part("waitpoints")),
            *(
                keys.waitpoint(waitpoint_id, "condition"),
                partition.index("attempt_timeout"),
                partition.waitpoint_hmac,
            ),
        ),
        (lease.execution_id, 0, lease.attempt_id, lease.lease_id, 1, str(uuid.uuid4()), waitpoint_id),
        (f"wpk:{waitpoint_id}", "waiting_for_signal", "worker", "", CONDITION, "{}", "", "", "fail", 1000),
    )


def deliver(subject: Subject, token: bytes) -> Command:
    """Deliver the signal that resumes a suspended execution."""
    keys, waitpoint_id, signal_id = subject.keys, subject.waitpoint_id, str(uuid.uuid4())
    partition = keys.partition
    return fcall(
        "ff_deliver_signal",
        (
            *(keys.core, keys.waitpoint(waitpoint_id, "condition"), keys.waitpoint(waitpoint_id, "signals")),
            *(keys.part("signals"), keys.signal(signal_id), keys.signal(signal_id, "payload")),
            *(keys.signal_dedup(waitpoint_id, "once"), keys.waitpoint(waitpoint_id), keys.part("suspension:current")),
            *(partition.lane(LANE, index) for index in ("eligible", "suspended", "delayed")),
            *(partition.index("suspension_timeout"), partition.waitpoint_hmac),
        ),
        (signal_id, keys.id, waitpoint_id, "approved", "approval", "user", "ada", PAYLOAD, "json", "once", ""),
        ("waitpoint", int(time.time() * 1000), 86_400_000, 0, 1000, 10_000, token),
    )


def fcall(function: str, keys: tuple[str, ...], *args: tuple[Part, ...]) -> Command:
    """Return the command that calls a function."""
    return ("FCALL", function, len(keys), *keys, *(part for parts in args for part in parts))


# --- measuring --------------------------------------------------------------------------------------------------


class Meter:
    """What one round found."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._spent_us: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()

    @property
    def costs_us(self) -> dict[str, float]:
        """Server CPU of one call, by step."""
        return {step: spent_us / self._calls[step] for step, spent_us in self._spent_us.items()}

    def run(self, step: str, commands: Iterable[Command], size: float = 1) -> list[Any]:
        """Run commands of a step, and note what they cost; return their replies.

        Args:
            size: of how many executions each takes care; less than one where an execution takes several.

        Raises:
            SystemExit: a call was refused, so that its cost would mean nothing.
        """
        prepared, replies = list(commands), []
        before_us = self._cpu_us()
        for first in range(0, len(prepared), PIPELINE):
            pipe = self._client.pipeline(transaction=False)
            for command in prepared[first : first + PIPELINE]:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            replies += pipe.execute()
        self._spent_us[step] += self._cpu_us() - before_us
        self._calls[step] += round(len(prepared) * size)
        for command, reply in zip(prepared, replies, strict=True):
            if command[0] == "FCALL" and reply is not None and reply[:2] != [1, b"OK"]:
                raise SystemExit(f"{step} answered {reply}")
        return replies

    def _cpu_us(self) -> int:
        info: Any = self._client.info("cpu")
        spent_s: float = info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
        return round(spent_s * 1e6)


def measure_round(client: redis.Redis, calls: int) -> dict[str, float]:
    """Take three groups of ``calls`` executions through their lives; return the us that a call of each step costs."""
    client.flushall()
    for partition in range(PARTITIONS):
        secret = ["current_kid", "k1", "secret:k1", "00112233445566778899aabbccddeeff" * 2]
        client.hset(PartitionKeys.of_index(partition).waitpoint_hmac, items=secret)
    completed, failed, suspended = ([new_subject(number) for number in range(calls)] for _ in range(3))
    subjects = [*completed, *failed, *suspended]
    instance, failure = WORKER.instance_id, Failed("it broke", "exception")
    meter = Meter(client)
    # So cheap that it takes more calls than the others for the server's clock to say anything.
    meter.run("nothing", repeat(("FCALL", "nothing", 0), 10 * calls))
    meter.run("create", (create(subject) for subject in subjects))
    meter.run("record", (scans.read_record(subject.lease.execution_id).command for subject in subjects))
    for first in range(0, len(subjects), GRANTED_AT_ONCE):
        some = subjects[first : first + GRANTED_AT_ONCE]
        meter.run("grant", (claim_calls.grant(subject.candidate, WORKER).command for subject in some))
        meter.run("claim", (claim_calls.take(subject.candidate, subject.lease, WORKER).command for subject in some))
    reads = [claim_calls.context_reads(subject.candidate, subject.lease) for subject in subjects]
    meter.run("context", (call.command for calls in reads for call in calls), 1 / len(reads[0]))
    meter.run("renew", (leases.renew(subject.lease).command for subject in completed))
    meter.run("complete", (outcomes.complete(subject.lease, instance, PAYLOAD).command for subject in completed))
    meter.run("fail", (outcomes.fail(subject.lease, instance, failure, RETRY_POLICY).command for subject in failed))
    # The first frame makes the stream, so it is not the usual one.
    meter.run("append first", (append(subject) for subject in suspended))
    meter.run("append", (append(subject) for subject in suspended))
    tokens = [reply[5] for reply in meter.run("suspend", (suspend(subject) for subject in suspended))]
    meter.run("deliver", (deliver(subject, token) for subject, token in zip(suspended, tokens, strict=True)))
    for size in PICKED:
        client.flushall()  # what was resumed comes first otherwise
        pick(meter, size, calls)
    meter.run(
        "256 pages", (scans.eligible_page(place, scans.PAGE).command for place in PLACES * LOOKS), 1 / len(PLACES)
    )
    looks = [scans.look_at([PLACES], ["bench"]).command] * LOOKS
    meter.run("look at 256", looks)
    return meter.costs_us


def pick(meter: Meter, size: int, calls: int) -> None:
    """Take leases of some ``calls`` executions, so many in a call."""
    subjects = [new_subject(number) for number in range(calls)]
    meter.run("create", (create(subject) for subject in subjects))
    offers = [[subject.lease for subject in subjects[partition::PARTITIONS]] for partition in range(PARTITIONS)]
    commands = [
        batch_claims.claim_first(Pick(LANE, partition), ["bench"], some[first : first + size], WORKER).command
        for partition, some in enumerate(offers)
        for first in range(0, len(some) // size * size, size)
    ]
    for reply in meter.run(f"picked, {size}", commands, size):
        if len(reply) != 2 + size or any(answer[0] != 1 for answer in reply[2:]):
            raise SystemExit(f"picking answered {reply}")


def create(subject: Subject) -> Command:
    """Create an execution that may run at once."""
    submission = submissions.Submission(
        execution_id=subject.lease.execution_id,
        lane=LANE,
        execution_kind="bench",
        payload=PAYLOAD,
        tags={"team": "a"},
    )
    return submissions.create(submission).command


# --- the server and the report ----------------------------------------------------------------------------------


@contextmanager
def private_server() -> Iterator[redis.Redis]:
    """Run a server without persistence while the block lasts; yield a client of it, with our library loaded."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("no redis-server on PATH: apt install redis-server")
    with tempfile.TemporaryDirectory() as folder:
        socket = str(Path(folder) / "redis.sock")
        options = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder, "--loglevel", "warning"]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(unix_socket_path=socket, protocol=2) as client:
                wait_until_it_answers(client, process)
                for name in libraries.NAMES:
                    client.function_load(libraries.assemble(name))
                client.function_load(NOTHING)
                yield client
        finally:
            process.kill()
            process.wait()


def wait_until_it_answers(client: redis.Redis, process: subprocess.Popen[bytes]) -> None:
    """Connect until the server answers a PING.

    Raises:
        SystemExit: the server ended instead.
    """
    while process.poll() is None:
        try:
            client.ping()
        except redis.ConnectionError:
            time.sleep(0.01)
        else:
            return
    raise SystemExit(f"redis-server exited with {process.returncode}")


def report(rounds: Sequence[dict[str, float]], calls: int) -> None:
    """Print the table: medians over the rounds, with the lowest and the highest."""
    for costs in rounds:
        costs.update({name: sum(costs[step] for step in steps) for name, steps in SUMS.items()})
    print(f"server CPU per call, {len(rounds)} rounds of at least {calls} calls a step, pipelines of {PIPELINE}")
    print(f"{'':22}{'us':>8}{'lowest':>8}{'highest':>8}{'x nothing':>11}{'lowest':>8}{'highest':>8}")
    for step in rounds[0]:
        times = [costs[step] for costs in rounds]
        multiples = [costs[step] / costs["nothing"] for costs in rounds]
        row = "".join(f"{value:8.1f}" for value in spread(times))
        print(f"{step:22}{row}   " + "".join(f"{value:8.1f}" for value in spread(multiples)))


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, lowest and highest."""
    return statistics.median(values), min(values), max(values)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.lua", description="Server CPU of the Lua functions.")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--calls", type=int, default=5_000, help="executions in each of three groups; default 5000")
    options = parser.parse_args()
    with private_server() as client:
        rounds = [measure_round(client, options.calls) for _ in range(options.rounds)]
    report(rounds, options.calls)


if __name__ == "__main__":
    main()
