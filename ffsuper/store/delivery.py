"""Handing outcomes to the store, as often as it takes."""

from __future__ import annotations

import logging

from ffsuper.errors import LeaseLostError, StoreError
from ffsuper.messages import Claim, Failed, Outcome, ReceivedSignal
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.outcomes import Outcomes

LOG = logging.getLogger(__name__)


async def deliver(
    outcomes: Outcomes, claim: Claim, outcome: Outcome, *, doubt: bool = False
) -> tuple[ReceivedSignal, ...] | None:
    """Deliver an outcome.

    A try whose answer was lost may have been carried out; the fence then refuses the next one, and the lease history
    tells which it was.

    Args:
        doubt: there has been such a try already.

    Returns:
        None; for a suspension whose signals have come already, these: the attempt goes on under its lease.
    """
    outage = Outage(LOG)
    signals: tuple[ReceivedSignal, ...] | None = None
    while True:
        try:
            signals = await outcomes.deliver(claim.lease, outcome, claim.retry_policy)
        except LeaseLostError as refusal:
            try:
                if doubt and await outcomes.was_delivered(claim.lease, outcome):
                    break
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            LOG.warning("outcome refused", extra={**told(claim), "code": refusal.code, "outcome": named(outcome)})
            return None
        except STORE_AWAY as error:
            doubt = True
            await outage.wait(error)
        except StoreError as error:
            LOG.error("outcome not stored", extra={**told(claim), "error": error, "outcome": named(outcome)})
            if isinstance(outcome, Failed) and not outcome.retryable:
                return None
            outcome = Failed(f"the outcome could not be stored: {error}", "result", retryable=False)
        else:
            break
    outage.over()
    LOG.info("finished", extra={**told(claim), "outcome": named(outcome)})
    return signals


def named(outcome: Outcome) -> str:
    """Return an outcome's name for the log."""
    return type(outcome).__name__.lower()


def told(claim: Claim) -> dict[str, object]:
    """Return what every log line about an attempt carries."""
    return {"execution": claim.lease.execution_id, "attempt": claim.lease.attempt_index}
