"""Calling the program, and reading the tables that it prints."""

from __future__ import annotations

import pytest

from ffsuper.cli import main
from ffsuper.messages import ExecutionId

LIMIT_S = 30.0
NOW_MS = 1_800_000_000_000
EXECUTION = ExecutionId("{fp:7}:5b1f2f6e-8f0e-4ec5-a31c-2d1f4de6a4f1")
RUNNING = {"execution": EXECUTION, "kind": "thumbnail", "lane": "bulk", "attempt": 2, "since_ms": 1_000, "child": 8}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Call the program; return its exit code, stdout and stderr."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out.strip(), err.strip()


def columns(line: str) -> list[str]:
    """Return the cells of a table's line."""
    return [part.strip() for part in line.split("  ") if part.strip()]
