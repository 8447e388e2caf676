"""Measure ffsuper side by side with its peers, each on a fresh server of its own.

    python -m bench.peers [--rounds N] [--only MEASURE ...] [--systems PATTERN ...] [--quick] [--json FILE]

Every round measures everything once, so that a noisy machine disturbs all alike. docs/benchmarks.md tells the method.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from bench.peers import measures, own, report
from bench.peers.measures import QUICK, Figures, Size, of_each
from bench.peers.running import Snapshots
from bench.peers.systems import AT_REST, OURS, PEERS, RECOVERING, REFERENCE, System

Rows = Iterator[tuple[str, Figures]]


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for."""

    patterns: tuple[str, ...]
    size: Size
    snapshots: Snapshots

    def of(self, *systems: System) -> list[System]:
        """Return those of the systems that are wanted."""
        return [one for one in systems if any(fnmatchcase(one.name, pattern) for pattern in self.patterns)]


def throughput(run: Run) -> Rows:
    """Jobs per second of a full store, and what each costs."""
    return of_each(run.of(*OURS, *PEERS), lambda system: measures.throughput(system, run.size, run.snapshots))


def latency(run: Run) -> Rows:
    """Submission to the start of the handler, 20 a second."""
    return of_each(run.of(*AT_REST, *PEERS), lambda system: measures.latency(system, run.size, run.snapshots))


def idle(run: Run) -> Rows:
    """What a worker with nothing to do takes."""
    return measures.idle(run.of(*AT_REST, *PEERS), run.size, run.snapshots)


def recovery(run: Run) -> Rows:
    """From a SIGKILL to the job running again."""
    yield from of_each(run.of(own.CHILD_DIES), lambda system: own.child_killed(system, run.size, run.snapshots))
    yield from of_each(run.of(own.SUPERVISOR_DIES), lambda system: own.supervisor_killed(system, run.snapshots))
    yield from measures.recovery(run.of(*RECOVERING), run.size, run.snapshots)


def results(run: Run) -> Rows:
    """Submission to the result at a waiting client."""
    return of_each(run.of(own.ROUND_TRIPS), lambda system: own.results(system, run.size, run.snapshots))


def signals(run: Run) -> Rows:
    """Signal to the suspended handler running again."""
    return of_each(run.of(own.ROUND_TRIPS), lambda system: own.signals(system, run.size, run.snapshots))


def memory(run: Run) -> Rows:
    """Proportional set sizes."""
    return of_each(run.of(own.MEMORY), lambda system: own.memory(system, run.snapshots))


def leases(run: Run) -> Rows:
    """Renewing many leases."""
    return of_each(run.of(own.HOLDING), lambda system: own.leases(system, run.size, run.snapshots))


def scaling(run: Run) -> Rows:
    """Throughput by children, supervisors, partitions, payloads, and with an append-only file."""
    return of_each(run.of(*own.SCALING), lambda system: measures.throughput(system, run.size, run.snapshots))


@dataclass(frozen=True, slots=True)
class Measure:
    """One of the measures.

    Attributes:
        reference: the row that the others are compared with; empty when there is nothing to compare.
    """

    take: Callable[[Run], Rows]
    reference: str = ""
    more_is_better: bool = False


MEASURES = {
    "throughput": Measure(throughput, REFERENCE, more_is_better=True),
    "latency": Measure(latency, REFERENCE),
    "results": Measure(results),
    "signals": Measure(signals),
    "idle": Measure(idle, REFERENCE),
    "memory": Measure(memory),
    "recovery": Measure(recovery, own.CHILD_DIES.name),
    "leases": Measure(leases),
    "scaling": Measure(scaling),
}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    told = "; ".join(f"{name}: {(one.take.__doc__ or '').rstrip('.')}" for name, one in MEASURES.items())
    parser.add_argument("--rounds", type=int, default=0, help="3, or 1 with --quick")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="MEASURE", help=told)
    parser.add_argument("--systems", nargs="+", default=["*"], metavar="PATTERN", help="such as 'ffsuper*' dramatiq")
    parser.add_argument("--quick", action="store_true", help="short runs: show that everything works, no more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    if options.rounds < 0:
        parser.error(f"--rounds must be 1 or more, got {options.rounds}")
    names = [one.name for one in (*OURS, *PEERS, *RECOVERING, *own.SYSTEMS)]
    for pattern in options.systems:
        if not any(fnmatchcase(name, pattern) for name in names):
            parser.error(f"--systems: nothing is called {pattern!r}; there are: {', '.join(dict.fromkeys(names))}")
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def measured(run: Run, wanted: Sequence[str], rounds: int) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Measure; return measure to system to figure to its values, one a round."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in wanted}
    for number in range(rounds):
        for name in wanted:
            print(f"round {number + 1} of {rounds}, {name}", file=sys.stderr)
            for system, figures in MEASURES[name].take(run):
                print(f"  {system}: {', '.join(f'{what} {x:.4g}' for what, x in figures.items())}", file=sys.stderr)
                kept = found[name].setdefault(system, {})
                for figure, value in figures.items():
                    kept.setdefault(figure, []).append(value)
    return found


def main() -> None:
    """Measure, and print the tables."""
    options = arguments()
    # As an interrupt does: nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ffsuper-bench-") as folder:
        run = Run(tuple(options.systems), QUICK if options.quick else Size(), Snapshots(Path(folder)))
        told = report.circumstances(run.of(*RECOVERING, *OURS, *PEERS))
        found = measured(run, options.only or list(MEASURES), options.rounds)
    print("\n".join(f"{name}: {text}" for name, text in told.items()))
    for name, rows in found.items():
        if rows:
            one = MEASURES[name]
            print(f"\n{report.table(name, rows, one.reference, more_is_better=one.more_is_better)}")
    print(f"\ntook {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    if options.json is not None:
        options.json.write_text(report.as_json(told | {"rounds": options.rounds, **asdict(run.size)}, found))


if __name__ == "__main__":
    main()
