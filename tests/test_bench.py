"""The benchmarks' command line; what they measure is for people to look at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def bench_peers(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "bench.peers", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_measure() -> None:
    ran = bench_peers("--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    for name in ("throughput", "latency", "results", "signals", "idle", "memory", "recovery", "leases", "scaling"):
        assert f"{name}:" in ran.stdout


def test_a_pattern_that_fits_no_system_is_refused_with_what_there_is() -> None:
    ran = bench_peers("--systems", "dramatik")
    assert ran.returncode == 2
    assert "nothing is called 'dramatik'; there are: ffsuper-1," in ran.stderr
