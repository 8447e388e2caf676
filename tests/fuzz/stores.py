"""Stores that answer nonsense, up to a point: then with errors, so that nothing goes on for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio
from hypothesis import strategies as st

from ffsuper.errors import StoreScriptError
from ffsuper.store.connection import Connection
from ffsuper.store.replies import Call
from ffsuper.store.wire import Command, Wire
from tests.fuzz.replies import REPLIES, reply_to

EXCHANGES = 12
COMMANDS = 120


class Nonsense:
    """What a server says."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        # Else every reply has the right form, so that verbs of many calls come to their end.
        self._is_absurd = data.draw(st.booleans())
        self._exchanges = 0
        self._commands = 0

    def answers(self, commands: Sequence[Command]) -> list[Any]:
        """Answer some commands."""
        self._exchanges += 1
        return [self._answer(command) for command in commands]

    def _answer(self, command: Command) -> Any:
        self._commands += 1
        if self._exchanges > EXCHANGES:
            return StoreScriptError("enough")
        if self._commands > COMMANDS:
            return None
        likely = reply_to(command)
        return self._data.draw(likely | REPLIES if self._is_absurd else likely)


class NonsenseConnection(Connection):
    """Has what an actor wants read from nonsense."""

    def __init__(self, data: st.DataObject) -> None:
        self._nonsense = Nonsense(data)

    async def _exchange(self, calls: Sequence[Call[Any]], timeout_s: float | None) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return self._nonsense.answers([call.command for call in calls])

    async def nodes_of(self, keys: Sequence[str]) -> list[str]:
        """Name no nodes."""
        return ["" for _ in keys]


class NonsenseWire(Wire):
    """Likewise, for what blocks."""

    def __init__(self, data: st.DataObject) -> None:
        self._nonsense = Nonsense(data)

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See ``Wire``."""
        return self._nonsense.answers(commands)

    def close(self) -> None:
        """See ``Wire``."""

    def servers(self) -> Sequence[Wire]:
        """See ``Wire``."""
        return [self]
