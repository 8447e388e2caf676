"""What other releases may ask of library ffsuper: a function's name stands for its arguments and replies."""

from __future__ import annotations

from pathlib import Path

from ffsuper.store import libraries
from tests.lua.lua_source import Header, Library, Row

RECORDED = Path(__file__).with_name("interface.txt")
RULE = (
    "programs of earlier releases call these functions as they know them. Where they would be misunderstood, or would"
    " misunderstand the answer, give the function another name, and keep the one of the last release if it is needed;"
    f" else write this to {RECORDED.name}:\n"
)


def named(rows: tuple[Row, ...]) -> str:
    """Return the positions and names of keys or arguments."""
    return ", ".join(f"{row.position} {row.name}" for row in rows)


def test_functions_are_called_and_answer_as_is_recorded_under_their_names() -> None:
    files = sorted((libraries.source_folder() / libraries.FFSUPER).glob("*.lua"))
    headers = [Header.of(one.comment) for one in Library(files).functions if one.is_registered]
    lines = [
        f"{one.name} ({named(one.keys)}; {named(one.args)}) {one.replies}"
        for one in sorted(headers, key=lambda one: one.name)
    ]
    assert len(lines) > 30
    interface = "\n".join(lines) + "\n"
    assert interface == RECORDED.read_text(encoding="utf-8"), RULE + interface
