"""What tracing needs."""

from __future__ import annotations

from collections.abc import Iterator

from ffsuper.commands.checks.finding import Finding, problem
from ffsuper.config import Config
from ffsuper.errors import ConfigError
from ffsuper.supervisor import ledger_of


def look(config: Config) -> Iterator[Finding]:
    """Yield what is not installed."""
    try:
        ledger_of(config)
    except ConfigError as error:
        yield from map(problem, error.problems)
