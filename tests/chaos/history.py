"""What really ran: written by the handlers themselves into a file, and read when all is over.

A line has a time, what happened, the execution, its attempt's index and type, and the process. While a handler runs
it also holds a lock that the kernel lets go when its process dies: another handler of the same execution that finds
it taken has met an overlap, however short.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ffsuper.clock import boottime_s

# What a line tells: an attempt begins, has an effect on the world, ends in one of several ways, or meets another.
START, EFFECT, OVERLAP = "start", "effect", "overlap"
RETURNED, RAISED, CRASHING, PAUSED = "returned", "raised", "crashing", "paused"
ENDS = (RETURNED, RAISED, CRASHING, PAUSED)


class Witness:
    """Writes down what one run of a handler does; inside the child."""

    def __init__(self, folder: Path, execution: str, attempt_index: int, attempt_type: str) -> None:
        self._about = f"{execution} {attempt_index} {attempt_type} {os.getpid()}"
        self._file = os.open(folder / "history", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lock = os.open(folder / "locks" / execution, os.O_RDWR | os.O_CREAT)
        self.ending = RAISED

    def __enter__(self) -> Witness:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.tell(OVERLAP)
        self.tell(START)
        return self

    def __exit__(self, *_: object) -> None:
        self.tell(self.ending)
        os.close(self._lock)
        os.close(self._file)

    def tell(self, what: str) -> None:
        """Write a line; one write, so that lines of several processes do not mix."""
        os.write(self._file, f"{boottime_s():.6f} {what} {self._about}\n".encode())


@dataclass
class Run:
    """One run of a handler, as the history has it.

    Attributes:
        last_s: when it was last seen alive.
        ending: empty when it was cut short.
    """

    execution: str
    attempt_index: int
    attempt_type: str
    pid: int
    start_s: float
    last_s: float
    ending: str = ""
    effects: int = 0


@dataclass
class History:
    """All runs, and the overlaps that handlers have met themselves.

    Attributes:
        runs: of each execution, by when they began.
        met: executions whose handlers found another at work, and when.
    """

    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    met: list[tuple[str, float]] = field(default_factory=list)

    def all_runs(self) -> Iterator[Run]:
        """Yield every run."""
        for runs in self.runs.values():
            yield from runs

    def overlaps(self) -> list[tuple[str, float]]:
        """Return executions with two runs at the same time, and when the second began."""
        found = list(self.met)
        for execution, runs in self.runs.items():
            found += [
                (execution, later.start_s)
                for earlier, later in itertools.pairwise(runs)
                if later.start_s < earlier.last_s
            ]
        return sorted(set(found), key=lambda one: one[1])


def read(path: Path) -> History:
    """Read the history of a run that is over."""
    history = History()
    running: dict[tuple[str, str], Run] = {}
    for line in sorted(path.read_text().splitlines(), key=lambda line: float(line.split()[0])):
        told_s, what, execution, index, attempt_type, pid = line.split()
        at_s = float(told_s)
        if what == OVERLAP:
            history.met.append((execution, at_s))
            continue
        if what == START:
            run = running[execution, pid] = Run(execution, int(index), attempt_type, int(pid), at_s, at_s)
            history.runs[execution].append(run)
            continue
        run = running[execution, pid]
        run.last_s = at_s
        if what == EFFECT:
            run.effects += 1
        else:
            run.ending = what
            del running[execution, pid]
    return history
