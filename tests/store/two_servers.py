"""A cluster of two servers without either: even partitions on one, odd ones on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ffsuper.errors import StoreError
from ffsuper.store.connection import Connection
from ffsuper.store.replies import Call, Part

Command = tuple[Part, ...]


class TwoServers(Connection):
    """Answers calls of functions, whose first key tells the server.

    Attributes:
        asked: the commands so far.
    """

    def __init__(self, reply: Callable[[str, Command], Any], away: Mapping[str, StoreError]) -> None:
        """Begin.

        Args:
            reply: of a server, ``even`` or ``odd``, to a command.
            away: what servers that cannot be reached fail with.
        """
        self.asked: list[Command] = []
        self._reply = reply
        self._away = away

    async def nodes_of(self, keys: Sequence[str]) -> list[str]:
        return ["odd" if int(key.split("}")[0].split(":")[-1]) % 2 else "even" for key in keys]

    async def try_all(self, calls: Sequence[Call[Any]], timeout_s: float | None = None) -> list[Any]:
        return [await self._answer(call) for call in calls]

    async def _answer(self, call: Call[Any]) -> Any:
        self.asked.append(call.command)
        (node,) = await self.nodes_of([str(call.command[3])])
        return self._away[node] if node in self._away else call.parse(self._reply(node, call.command))
