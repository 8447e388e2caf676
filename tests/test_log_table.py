"""The table of log events in docs/operations.md is complete, and names none that is not there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
SOURCES = sorted((CHECKOUT / "ffsuper").rglob("*.py"))
NODES = [node for one in SOURCES for node in ast.walk(ast.parse(one.read_text(encoding="utf-8")))]
# Some events are handed to who logs them.
TEXTS = {node.value for node in NODES if isinstance(node, ast.Constant) and isinstance(node.value, str)}
TOLD = ("info", "warning", "error", "critical")
SECTION = (CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## Log\n")[2]
ROWS = re.findall(r"^\| (`.+?) \| [a-z, ]+ \|", SECTION.partition("\n## ")[0], re.MULTILINE)
NAMES = [name for row in ROWS for name in re.findall("`(.+?)`", row)]


def events() -> set[str]:
    """Return the texts of all calls of a log above debug."""
    found = set()
    for node in NODES:
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name("LOG") | ast.Attribute(attr="_log"), attr=level),
                args=[ast.Constant(str(text)), *_],
            ) if level in TOLD:
                found.add(text)
    return found


def is_named(event: str, name: str) -> bool:
    return event.startswith(name.removesuffix("…")) if name.endswith("…") else event == name


@pytest.mark.parametrize("event", sorted(events()))
def test_an_event_of_the_log_is_in_the_table(event: str) -> None:
    named = [name for name in NAMES if is_named(event, name)]
    assert len(named) == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_event_of_the_table_is_logged(name: str) -> None:
    assert any(is_named(text, name) for text in TEXTS)
