"""Mixed work at a steady pace for an hour, with children replaced all the time: is everything flat, and nothing lost?

    python -m bench.soak --minutes 60 [--rate 40] [--seed N] [--json FILE]

Two workers with an engine each, on a private server with an append-only file: one whose children run one execution
at a time, one whose children run many. Children are replaced after some executions, crash, and are killed for their
memory or for not heeding their timeout; every minute one of the workers is reloaded (SIGHUP). Ended executions are
deleted after a minute. In the table, ``first`` and ``last`` are medians of the first and the last quarter of what
comes after the warm-up (a fifth of the time, two minutes at least), and ``growth`` is that in all of it, by the
median of the slopes between all pairs of samples. Exit code 1 when something grows or is lost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import redis
import trio

from bench.peers.running import free_port
from bench.soak import marks
from bench.soak.load import ASYNC, PLAIN, RETENTION_MS, Load, SoakError
from bench.soak.verdict import Finding, Limit, ends_table, judge, share, table
from bench.soak.watching import Watch, Worker
from ffsuper.client import Client
from tests.redis_server import running_server

CHECKOUT = Path(__file__).parent.parent.parent
SAMPLE_S = 5.0
# Looking at all keys takes the server a moment, so it is done every third time.
KEYS_EVERY = 3
PROGRESS_S = 60.0
# One worker after the other is reloaded, the last one some time before the end.
RELOAD_S = 60.0
LAST_RELOAD_S = 15.0
# Memory comes to its level slowly: what a process has once needed at a time it keeps.
WARM_UP = 0.2
# The store is level when executions are deleted as fast as they come.
LEAST_WARM_UP_S = RETENTION_MS / 1000 + 60.0
# What was submitted last may be retried, suspended or delayed.
END_S = 120.0
STOP_S = 60.0
READY_S = 60.0
# Keys of executions: none of these is left in the end.
OF_EXECUTIONS = ("ff:exec", "ff:attempt", "ff:stream", "ff:wp", "ff:signal")

# Latencies hang on what else the machine does: only what gets much worse says something.
LIMITS = (
    Limit("* p50, ms", 1.0, 5.0),
    Limit("* p99, ms", 1.0, 50.0),
    Limit("store: memory beside, MB", 0.05, 1.0),
    Limit("store: keys beside", 0.05, 500.0),
    Limit("store: clients", 0.0, 0.5),
    Limit("store: *", math.inf, math.inf),
    Limit("* MB", 0.02, 1.0),
    Limit("* log, KB/s", 0.2, 1.0),
    Limit("*: *", 0.0, 0.5),
    Limit("executions open", 0.25, 20.0),
)

WORKER_TOML = """\
[worker]
id = "soak"
instance_id = "{name}"
lanes = ["{lane}"]
handlers = ["{handlers}"]
python_path = ["{checkout}"]

[store]
url = "{url}"

[lease]
ttl_ms = 10000
margin_ms = 1000

[children]
count = {children}
tasks_per_process = {tasks_per_process}
recycle_after = {recycle_after}
hard_memory_mb = 200
grace_s = 1.0
max_restarts = 1000

[children.environment]
{variable} = "{marks}"

[engine]
enabled = true
retention_interval_ms = 5000
index_interval_ms = 60000

[status]
listen = "127.0.0.1:{port}"

[log]
format = "json"
"""
WORKERS: dict[str, dict[str, object]] = {
    "plain": {
        "lane": PLAIN,
        "handlers": "bench.soak.handlers",
        "children": 8,
        "tasks_per_process": 1,
        "recycle_after": 25,
    },
    "async": {
        "lane": ASYNC,
        "handlers": "bench.soak.async_handlers",
        "children": 2,
        "tasks_per_process": 16,
        "recycle_after": 100,
    },
}


@dataclass(slots=True)
class Soak:
    """A run under way, and what is found out about it.

    Attributes:
        problems: what is wrong, beside series that grow.
        told: what the tables do not say.
    """

    options: argparse.Namespace
    load: Load
    watch: Watch
    reloads: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)

    @property
    def span_s(self) -> float:
        """For how long is submitted."""
        return float(self.options.minutes) * 60

    async def run(self) -> None:
        """Submit, watch, and wait until all has ended."""
        async with trio.open_nursery() as nursery:
            until_s = trio.current_time() + self.span_s
            nursery.start_soon(self.load.follow)
            nursery.start_soon(self.load.probe, until_s)
            nursery.start_soon(self._sample, until_s)
            nursery.start_soon(self._reload, until_s)
            nursery.start_soon(self._tell)
            await self.load.submit(until_s)
            with trio.move_on_after(END_S):
                await self.load.wait_ended()
            nursery.cancel_scope.cancel()

    async def _sample(self, until_s: float) -> None:
        number = 0
        while trio.current_time() < until_s - SAMPLE_S:
            await trio.sleep(SAMPLE_S)
            for worker in self.watch.workers:
                if not worker.runs():
                    raise SoakError(f"{worker.name} has ended:\n{worker.said()}")
            await trio.to_thread.run_sync(partial(self.watch.sample, with_keys=number % KEYS_EVERY == 0))
            number += 1

    async def _reload(self, until_s: float) -> None:
        for worker in itertools.cycle(self.watch.workers):
            await trio.sleep(RELOAD_S)
            if trio.current_time() > until_s - LAST_RELOAD_S:
                return
            worker.process.send_signal(signal.SIGHUP)
            self.reloads[worker.name] += 1

    async def _tell(self) -> None:
        while True:
            await trio.sleep(PROGRESS_S)
            if self.watch.samples:
                print(self._progress(), file=sys.stderr, flush=True)
                await trio.to_thread.run_sync(self.write, [])

    def _progress(self) -> str:
        at_s, figures = self.watch.samples[-1]
        memory = ", ".join(
            f"{one.name} {figures[f'{one.name}: supervisor USS, MB']:.1f}" for one in self.watch.workers
        )
        return (
            f"{at_s / 60:5.1f} min: {self.load.submitted} submitted, {len(self.load.open)} open,"
            f" {len(self.load.wrong)} wrong; start p50 {figures['start p50, ms']:.1f} ms;"
            f" supervisors' USS {memory} MB;"
            f" store {figures['store: memory, MB']:.1f} MB, {figures['store: keys']:.0f} keys"
        )

    def findings(self) -> list[Finding]:
        """Judge all series."""
        from_s = min(max(WARM_UP * self.span_s, LEAST_WARM_UP_S), 0.5 * self.span_s)
        return [judge(name, series, LIMITS, from_s) for name, series in self.watch.series().items()]

    def account(self) -> None:
        """Find out what was lost, and what did not happen as it should."""
        self.problems += [f"wrong end: {one}" for one in self.load.wrong]
        with Client(self.load.url) as client:
            states = client.states(list(self.load.open))
        for (execution, known), state in zip(self.load.open.items(), states, strict=True):
            self.problems.append(f"not ended: {execution}, {known.work.kind}: {state or 'gone'}")
            self.load.ends[known.work.kind][f"({state or 'gone'})"] += 1
        self.problems += [f"no answer: {one}" for one in self.watch.silent]
        for worker in self.watch.workers:
            events = worker.events()
            deaths = ", ".join(f"{cause} {count}" for cause, count in sorted(worker.deaths().items()))
            recycled = events["info", "child recycled"]
            self.told[f"{worker.name}: children"] = f"{recycled} recycled; died: {deaths or 'none'}"
            loud = {event: count for (level, event), count in events.items() if level in ("warning", "error")}
            self.told[f"{worker.name}: warnings and errors"] = (
                ", ".join(f"{x} {n}" for x, n in loud.items()) or "none"
            )
            reloaded = events["info", "reloaded"]
            self.told[f"{worker.name}: reloads"] = f"{reloaded}"
            if reloaded != self.reloads[worker.name]:
                self.problems.append(f"{worker.name}: reloaded {reloaded} times of {self.reloads[worker.name]}")

    def wait_deleted(self) -> None:
        """Wait until retention has deleted all that has ended, and tell what is left."""
        give_up_s = time.monotonic() + RETENTION_MS / 1000 + 30.0
        while True:
            families = self.watch.families()
            left = {name: families[name] for name in OF_EXECUTIONS if families[name]}
            if not left or time.monotonic() > give_up_s:
                break
            time.sleep(1.0)
        self.told["keys left after the end"] = ", ".join(f"{name} {count}" for name, count in families.most_common())
        self.problems += [f"left after retention: {count} keys {name}:*" for name, count in left.items()]

    def stop(self) -> None:
        """End the workers in order."""
        for worker in self.watch.workers:
            children = worker.process.children(recursive=True)
            worker.process.terminate()
            try:
                code = worker.process.wait(STOP_S)
            except psutil.TimeoutExpired:
                code = None
            left = [one.pid for one in children if one.is_running()]
            if code != 0 or left:
                self.problems.append(f"{worker.name}: exit code {code}, processes left: {left}")

    def write(self, findings: Sequence[Finding]) -> None:
        """Write the figures, as far as there are any."""
        if self.options.json is None:
            return
        figures: dict[str, Any] = {
            "options": {"minutes": self.options.minutes, "rate": self.options.rate, "seed": self.options.seed},
            "told": self.told,
            "problems": self.problems,
            "ends": self.load.ends,
            "findings": [asdict(one) | {"word": one.word} for one in findings],
            "series": self.watch.series(),
        }
        self.options.json.write_text(json.dumps(without_nan(figures)))


def without_nan(value: Any) -> Any:
    """Return the value with None for what is not a number, which JSON does not have."""
    match value:
        case dict():
            return {key: without_nan(one) for key, one in value.items()}
        case list() | tuple():
            return [without_nan(one) for one in value]
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value


@contextmanager
def soaking(options: argparse.Namespace) -> Iterator[Soak]:
    """Provide a server and workers that are ready."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="ffsuper-soak-")))
        url = opened.enter_context(running_server(folder, "--appendonly", "yes", "--loglevel", "warning"))
        store = opened.enter_context(redis.Redis.from_url(url, protocol=2))
        reader = marks.Reader(folder / "marks")
        workers = list[Worker]()
        for name, settings in WORKERS.items():
            workers.append(start(name, folder, settings | {"url": url, "marks": folder / "marks"}))
            opened.callback(end, workers[-1])
        for worker in workers:
            wait_ready(worker)
        load = Load(url, options.rate, random.Random(options.seed))
        yield Soak(options, load, Watch(workers, store, load, reader))


def start(name: str, folder: Path, settings: dict[str, object]) -> Worker:
    """Start a worker."""
    port, config, log_path = free_port(), folder / f"{name}.toml", folder / f"{name}.log"
    own = {"name": name, "checkout": CHECKOUT, "variable": marks.VARIABLE, "port": port}
    config.write_text(WORKER_TOML.format(**settings | own))
    with log_path.open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "ffsuper", "--config", str(config)],
            env={key: text for key, text in os.environ.items() if not key.startswith("FFSUPER_")},
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    return Worker(name, process, log_path, port)


def wait_ready(worker: Worker) -> None:
    """Wait until a worker takes on work.

    Raises:
        SoakError: it does not in time.
    """
    give_up_s = time.monotonic() + READY_S
    while not worker.events()["info", "ready"]:
        if time.monotonic() > give_up_s or not worker.runs():
            raise SoakError(f"{worker.name} is not ready:\n{worker.said()}")
        time.sleep(0.05)


def end(worker: Worker) -> None:
    """Kill a worker that still runs; its fork server and children end with it."""
    if worker.runs():
        worker.process.kill()
        worker.process.wait()


def report(soak: Soak, findings: Sequence[Finding]) -> str:
    """Return what was found."""
    late_s = {name: one for name, one in soak.watch.late_s.items() if one}
    options, server = soak.options, version_of(soak.watch.store)
    asked = f"{options.minutes:g} minutes, {options.rate:g}/s, seed {options.seed}"
    lines = [
        f"{asked}; Python {platform.python_version()}, redis-server {server}",
        "",
        table(findings),
        "",
        *(
            f"{name}: {len(one)} measured, p50 {share(one, 0.5) * 1000:.2f} ms, p99 {share(one, 0.99) * 1000:.2f} ms,"
            f" most {max(one) * 1000:.0f} ms"
            for name, one in sorted(late_s.items())
        ),
        "",
        ends_table(soak.load.ends),
        "",
        *(f"{name}: {text}" for name, text in soak.told.items()),
        "",
        *(f"PROBLEM {one}" for one in soak.problems),
    ]
    grown = [one for one in findings if not one.is_flat]
    lines += [f"{one.word.upper()} {one.name}" for one in grown]
    if not grown and not soak.problems:
        lines.append(f"flat: all of {sum(one.allowed is not None for one in findings)} series; nothing lost")
    return "\n".join(lines)


def version_of(store: redis.Redis) -> str:
    """Return the server's version."""
    info: Any = store.info("server")
    return str(info["redis_version"])


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=40.0, help="submissions a second; default 40")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, every minute")
    options = parser.parse_args()
    if options.minutes <= 0 or options.rate <= 0:
        parser.error("--minutes and --rate must be above 0")
    return options


def main() -> None:
    """Soak, and tell what is not flat."""
    options = arguments()
    # As an interrupt does, which shells turn off in the background: nothing is left running.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with soaking(options) as soak:
        trio.run(soak.run)
        soak.account()
        soak.wait_deleted()
        soak.stop()
        findings = soak.findings()
        soak.write(findings)
        print(report(soak, findings))
    if soak.problems or not all(one.is_flat for one in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
