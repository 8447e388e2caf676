"""Figures of the workers' processes, of the store, and of how long things take, every few seconds."""

from __future__ import annotations

import json
import math
import random
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.soak.load import Load
from bench.soak.marks import Reader
from bench.soak.verdict import share

MB = 1 << 20
SCAN_PAGE = 2_000
# What is there after the executions are gone: nothing deletes the records of flows, and what tells a repeated signal
# is kept for a day.
KEPT = ("ff:flow", "ff:sigdedup")
# So many keys are asked for their size, to tell that of all.
ASKED = 100
ASK_TIMEOUT_S = 5.0
LOG_LINES = 15
MEASURES = ("start", "async start", "signal")

Figures = dict[str, float]


@dataclass(slots=True)
class Worker:
    """A running worker, seen from outside."""

    name: str
    process: psutil.Process
    log: Path
    port: int
    logged: int = 0

    def figures(self) -> Figures:
        """Return those of its processes."""
        found = {f"supervisor {what}": figure for what, figure in of_process(self.process).items()}
        running, zombies, templates = 0, 0, list[psutil.Process]()
        for process in self.process.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    zombies += 1
                elif is_template(process):
                    templates.append(process)
                else:
                    running += 1
        found |= {"children": running, "zombies": zombies, "fork servers": len(templates)}
        if templates:
            # After a reload there are two for a while.
            youngest = max(templates, key=lambda one: one.create_time())
            with suppress(psutil.NoSuchProcess):
                found |= {f"fork server {what}": figure for what, figure in of_process(youngest).items()}
        return {f"{self.name}: {what}": figure for what, figure in found.items()}

    def runs(self) -> bool:
        """Tell whether it still runs."""
        return bool(self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE)

    def said(self) -> str:
        """Return the end of what it has logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def log_bytes(self) -> int:
        """Return how much it has written since this was last asked."""
        before, self.logged = self.logged, self.log.stat().st_size
        return self.logged - before

    def events(self) -> Counter[tuple[str, str]]:
        """Return how often it has logged what, by level and event."""
        found = Counter[tuple[str, str]]()
        with self.log.open(errors="replace") as lines:
            for line in lines:
                with suppress(json.JSONDecodeError):
                    told = json.loads(line)
                    found[told["level"], told["event"]] += 1
        return found

    def answer(self, path: str) -> str:
        """Return what it answers over HTTP; an answer that is not 200 is an ``OSError``."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=ASK_TIMEOUT_S) as answer:
            told: bytes = answer.read()
        return told.decode()

    def deaths(self) -> dict[str, int]:
        """Return how many children have died unasked, by cause."""
        found = dict[str, int]()
        for line in self.answer("/metrics").splitlines():
            if line.startswith("ffsuper_child_deaths_total{"):
                cause, _, count = line.partition('"')[2].partition('"} ')
                found[cause] = int(float(count))
        return found


def is_template(process: psutil.Process) -> bool:
    """Tell whether it is a fork server; what it forks has the same command line."""
    if "ffsuper.child.forkserver" not in process.cmdline():
        return False
    parent = process.parent()
    return parent is not None and "ffsuper.child.forkserver" not in parent.cmdline()


def of_process(process: psutil.Process) -> Figures:
    """Return the figures of one process."""
    memory = process.memory_full_info()
    return {
        "RSS, MB": memory.rss / MB,
        "USS, MB": memory.uss / MB,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
    }


@dataclass(slots=True)
class Watch:
    """Takes samples.

    Attributes:
        samples: seconds since it began, and the figures of then.
        late_s: measure to all that was measured: from asking until the handler was there.
        silent: what did not answer.
    """

    workers: list[Worker]
    store: redis.Redis
    load: Load
    marks: Reader
    began_s: float = field(default_factory=time.monotonic)
    samples: list[tuple[float, Figures]] = field(default_factory=list)
    late_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    silent: list[str] = field(default_factory=list)
    _came_s: dict[tuple[str, str], float] = field(default_factory=dict)
    _ended: int = 0

    def sample(self, *, with_keys: bool) -> None:
        """Take one, with a look at all keys if wanted."""
        at_s = time.monotonic() - self.began_s
        span_s = at_s - self.samples[-1][0] if self.samples else at_s
        figures = self._latencies() | self._store()
        for worker in self.workers:
            figures |= worker.figures() | {f"{worker.name}: log, KB/s": worker.log_bytes() / 1000 / span_s}
            self._ask(worker)
        if with_keys:
            figures |= self._keys(figures["store: memory, MB"])
        ended, self._ended = self.load.ended - self._ended, self.load.ended
        figures |= {"executions ended/s": ended / span_s, "executions open": len(self.load.open)}
        self.samples.append((at_s, figures))

    def series(self) -> dict[str, list[tuple[float, float]]]:
        """Return each figure as it was over time."""
        found = defaultdict[str, list[tuple[float, float]]](list)
        for at_s, figures in self.samples:
            for name, figure in figures.items():
                found[name].append((at_s, figure))
        return dict(sorted(found.items()))

    def families(self) -> Counter[str]:
        """Return how many keys there are, by the first two parts of their names."""
        return Counter(family_of(key) for key in self._scanned())

    def _scanned(self) -> Iterator[bytes]:
        keys: Iterator[bytes] = self.store.scan_iter(count=SCAN_PAGE)
        return keys

    def _latencies(self) -> Figures:
        for measure, execution, at_s in self.marks.fresh():
            self._came_s.setdefault((measure, execution), at_s)
        found = defaultdict[str, list[float]](list)
        for what in [one for one in self.load.asked_s.copy() if one in self._came_s]:
            late_s = self._came_s.pop(what) - self.load.asked_s.pop(what)
            found[what[0]].append(late_s)
            self.late_s[what[0]].append(late_s)
        results, self.load.results_s = self.load.results_s, []
        self.late_s["result"] += results
        found["result"] = results
        return {
            f"{measure} p{part}, ms": share(found[measure], part / 100) * 1000
            for measure in (*MEASURES, "result")
            for part in (50, 99)
        }

    def _store(self) -> Figures:
        info: Any = self.store.info()
        return {
            "store: memory, MB": info["used_memory"] / MB,
            "store: RSS, MB": info["used_memory_rss"] / MB,
            "store: clients": info["connected_clients"],
            "store: keys": sum(one["keys"] for name, one in info.items() if name.startswith("db")),
        }

    def _keys(self, memory_mb: float) -> Figures:
        by_family = defaultdict[str, list[bytes]](list)
        for key in self._scanned():
            by_family[family_of(key)].append(key)
        kept_mb = sum(self._bytes_of(by_family[one]) for one in KEPT) / MB
        kept = sum(len(by_family[one]) for one in KEPT)
        return {
            "store: keys kept by design": kept,
            "store: keys beside": sum(map(len, by_family.values())) - kept,
            "store: memory kept by design, MB": kept_mb,
            "store: memory beside, MB": memory_mb - kept_mb,
        }

    def _bytes_of(self, keys: list[bytes]) -> float:
        if not keys:
            return 0.0
        asked = random.choices(keys, k=ASKED)
        pipe = self.store.pipeline(transaction=False)
        for key in asked:
            pipe.memory_usage(key)
        sizes = [size for size in pipe.execute() if size is not None]
        return len(keys) * sum(sizes) / len(sizes) if sizes else math.nan

    def _ask(self, worker: Worker) -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            try:
                worker.answer(path)
            except OSError as error:
                self.silent.append(f"{worker.name} {path} after {time.monotonic() - self.began_s:.0f} s: {error}")


def family_of(key: bytes) -> str:
    """Return the first two parts of a key's name."""
    return b":".join(key.split(b":")[:2]).decode(errors="replace")
