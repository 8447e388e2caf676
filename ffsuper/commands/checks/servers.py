"""The server that grants work, where the worker asks one."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ffsuper.admin.client import AdminClient
from ffsuper.commands.checks.finding import Finding, problem
from ffsuper.config import ClaimConfig
from ffsuper.errors import ConfigError, ExecutionNotFoundError, StoreAccessError, StoreError, StoreUnavailableError

PLACE = "[claim] server_url"
ANSWER_S = 10.0
# Of nobody: a server that knows the caller says that it does not know this.
NO_EXECUTION = "{fp:0}:00000000-0000-0000-0000-000000000000"


async def look(claim: ClaimConfig) -> Sequence[Finding]:
    """Return what keeps the worker from being granted work."""
    if claim.source != "server":
        return []
    with trio.move_on_after(ANSWER_S):
        return await trio.to_thread.run_sync(ask, claim, abandon_on_cancel=True)
    return [problem(f"{PLACE}: no answer within {ANSWER_S:g} s: look at the server", StoreUnavailableError)]


def ask(claim: ClaimConfig) -> Sequence[Finding]:
    """Ask the server for something that only those may see who have its token."""
    try:
        with AdminClient(claim.server_url, token=claim.token, ca_file=claim.ca_file, patience_s=0.0) as client:
            client.state(NO_EXECUTION)
    except ExecutionNotFoundError:
        return []
    except ConfigError as error:
        return [problem(f"{PLACE}: {text}") for text in error.problems]
    except StoreAccessError as error:
        return [problem(f"[claim] token_file: {error}: give it the server's token", type(error))]
    except StoreError as error:
        return [problem(f"{PLACE}: {error}: start it, or mend the URL", type(error))]
    return []
