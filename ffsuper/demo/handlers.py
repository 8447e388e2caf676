"""The main job's handler."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from ffsuper import Context, handler


@handler("survey", timeout_s=60)
def survey(ctx: Context, path: str) -> dict[str, int]:
    """Parse one Python file; report what is in it, and which process did it."""
    return {**count(Path(path)), "pid": os.getpid()}


def count(path: Path) -> dict[str, int]:
    """Count a file's functions, classes and lines."""
    source = path.read_bytes()
    nodes = list(ast.walk(ast.parse(source)))
    return {
        "functions": sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "lines": len(source.splitlines()),
    }
