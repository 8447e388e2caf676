"""The handlers, loaded by a child as the worker has them loaded."""

from __future__ import annotations

from collections.abc import Sequence

from ffsuper.child.nest import check_handlers
from ffsuper.child.process import Child
from ffsuper.child.spawning import open_fork_server
from ffsuper.commands.checks.finding import Finding, problem
from ffsuper.config import Config
from ffsuper.errors import ChildError, ConfigError
from ffsuper.line import fork_server_settings


async def look(config: Config) -> tuple[Sequence[str], Sequence[Finding]]:
    """Return the kinds that the handlers are for, and what is wrong with them."""
    try:
        async with open_fork_server(fork_server_settings(config), ignore) as server:
            try:
                child = await server.spawn()
                kinds = list(child.handlers)
                check_handlers(child, config.children)
            except ChildError as error:
                return [], [problem(f"[worker] handlers: {error}", type(error))]
            await child.aclose()
    except ConfigError as error:
        return [], [problem(text) for text in error.problems]
    return kinds, []


def ignore(child: Child, stream: str, line: str) -> None:
    """Take no notice of what modules print when they are imported."""
