"""All checks, one after the other: first those of what ends a worker that starts, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from ffsuper.commands.checks import files, handlers, ports, servers, stores, timing, tracing, units
from ffsuper.commands.checks.finding import Finding
from ffsuper.config import Config


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        kinds: what the handlers are for.
    """

    kinds: Sequence[str] = ()
    findings: Sequence[Finding] = ()

    @property
    def problems(self) -> list[Finding]:
        """What keeps a worker from working."""
        return [one for one in self.findings if one.error is not None]

    @property
    def warnings(self) -> list[Finding]:
        """What somebody should look at."""
        return [one for one in self.findings if one.error is None]

    def summary(self) -> str:
        """Say how much was found."""
        return f"{counted(len(self.problems), 'problem')}, {counted(len(self.warnings), 'warning')}"


def look(config: Config, file: Path, unit: str | None, *, offline: bool) -> Report:
    """Look at everything.

    Args:
        file: where the configuration is from.
        unit: see ``units.look``.
        offline: leave out what needs the store, or a server.
    """
    found: list[Finding] = []
    if not offline:
        found += stores.look(config.store)
        found += trio.run(servers.look, config.claim)
    found += tracing.look(config)
    found += ports.look(config, file)
    found += ports.exposed(config)
    kinds, wrong = trio.run(handlers.look, config)
    found += wrong
    found += units.look(config, file, unit)
    found += timing.look(config)
    found += files.look(config)
    # A cluster's servers have much the same to tell.
    return Report(kinds, list(dict.fromkeys(found)))


def counted(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
