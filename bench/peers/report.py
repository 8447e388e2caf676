"""What was found: tables for people, JSON for programs; and where and when, without which figures mean little."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.peers.environments import PINS
from bench.peers.systems import System
from tests.redis_server import server_program

# Measure to system to figure to its values, one a round.
Found = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]

OWN_PARTS = ("trio", "redis", "hiredis", "psutil")
CHECKOUT = Path(__file__).parent.parent.parent


def circumstances(systems: Sequence[System]) -> dict[str, str]:
    """Return what the figures depend on."""
    packages = sorted({system.package for system in systems if not system.is_ours})
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}",
        "load at the start": f"{os.getloadavg()[0]:.2f}",
        "server": output_of(server_program(), "--version"),
        "ffsuper": f"{version('ffsuper')}, commit {output_of('git', 'describe', '--always', '--dirty') or 'unknown'}",
        "python": sys.version.split()[0],
        "ours": ", ".join(f"{name} {version(name)}" for name in OWN_PARTS),
        "peers": ", ".join(PINS[name].split()[0].replace("==", " ") for name in packages),
        **{system.name: system.about for system in systems},
    }


def cpu_model() -> str:
    """Return what the processor calls itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def output_of(*argv: str) -> str:
    """Return what a program prints."""
    ran = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return ran.stdout.strip()


def table(
    measure: str, found: Mapping[str, Mapping[str, Sequence[float]]], reference: str, *, more_is_better: bool
) -> str:
    """Return a table: each system's medians, lowest and highest, and how far ahead of it the reference is.

    That is the ratio of the first figure, the median of the rounds' own ratios; above 1 the reference is the better.
    """
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    base = found.get(reference, {})
    heads = [measure, *names, *([f"{reference} ahead"] if base else [])]
    lines = [heads]
    for system, figures in found.items():
        lines.append([system, *(shown(figures.get(name, ())) for name in names)])
        if base:
            pair = (base.get(names[0], ()), figures.get(names[0], ()))
            lines[-1].append(ratio(*pair) if more_is_better else ratio(*reversed(pair)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shown(values: Sequence[float]) -> str:
    """Return median, lowest and highest."""
    if not values:
        return "-"
    middle, low, high = statistics.median(values), min(values), max(values)
    return number(middle) if len(values) == 1 else f"{number(middle)} ({number(low)}..{number(high)})"


def number(value: float) -> str:
    """Return three digits that count."""
    if not math.isfinite(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Return the median of the rounds' ratios; where one of the two failed in a round, the ratio of the medians."""
    if not above or not below:
        return "-"
    if len(above) != len(below):
        above, below = [statistics.median(above)], [statistics.median(below)]
    ratios = [one / other for one, other in zip(above, below, strict=True) if other]
    middle = statistics.median(ratios) if ratios else math.inf
    return number(middle) if math.isfinite(middle) else "-"


def as_json(told: Mapping[str, Any], found: Found) -> str:
    """Return everything; null where something did not happen within its limit."""
    measures = {
        measure: {
            system: {
                name: [value if math.isfinite(value) else None for value in values]
                for name, values in figures.items()
            }
            for system, figures in rows.items()
        }
        for measure, rows in found.items()
    }
    return json.dumps({**told, "measures": measures}, indent=1) + "\n"
