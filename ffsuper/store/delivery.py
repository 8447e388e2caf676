"""Handing outcomes to the store, as often as it takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ffsuper.errors import LeaseLostError, LibraryMissingError, StoreError
from ffsuper.messages import Claim, Deferred, Delivered, Failed, NotBegun, Outcome, ReceivedSignal
from ffsuper.sansio.pulse import Pulse
from ffsuper.store.outage import STORE_AWAY, Outage
from ffsuper.store.outcomes import Outcomes

LOG = logging.getLogger(__name__)

# Of a failure's reason, what is logged.
REASON_CHARACTERS = 200
# What becomes of an execution whose child had to be killed for no fault of its own. The time is long past on every
# clock: whoever takes it next may start at once. What a handler defers is never this very object.
HANDED_BACK = Deferred(until_ms=0)
NOTHING: Mapping[str, object] = {}


# The lease ended before there was an outcome.
LOST = Delivered("lost")


async def deliver(
    outcomes: Outcomes,
    claim: Claim,
    outcome: Outcome,
    pulse: Pulse,
    *,
    about: Mapping[str, object] = NOTHING,
    doubt: bool = False,
    failure: StoreError | None = None,
) -> Delivered:
    """Deliver an outcome.

    A try whose answer was lost may have been carried out; the fence then refuses the next one, and the lease history
    tells which it was.

    Args:
        about: what else the log says of the attempt.
        doubt: there has been such a try already.
        failure: what a first try has come to.
    """
    outage = Outage(LOG)
    signals: tuple[ReceivedSignal, ...] | None = None
    while True:
        pulse.beat()
        try:
            if failure is not None:
                first, failure = failure, None
                raise first
            signals = await outcomes.deliver(claim.lease, outcome, claim.retry_policy)
        except LeaseLostError as refusal:
            try:
                if doubt and await outcomes.was_delivered(claim.lease, outcome):
                    break
            except STORE_AWAY as error:
                await outage.wait(error)
                continue
            outage.over()
            LOG.warning("outcome refused", extra={**told(claim), "code": refusal.code, "outcome": named(outcome)})
            return Delivered("refused")
        except STORE_AWAY as error:
            if isinstance(error, LibraryMissingError) and isinstance(outcome, NotBegun):
                outcome = HANDED_BACK  # by the protocol's own functions; the attempt will seem to go on
                continue
            doubt = True
            await outage.wait(error)
        except StoreError as error:
            LOG.error("outcome not stored", extra={**told(claim), "error": error, "outcome": named(outcome)})
            if isinstance(outcome, Failed) and not outcome.retryable:
                return Delivered("undeliverable", why=why(outcome))
            outcome = Failed(f"the outcome could not be stored: {error}", "result", retryable=False)
        else:
            break
    outage.over()
    return delivered(claim, outcome, about, signals)


def delivered(
    claim: Claim,
    outcome: Outcome,
    about: Mapping[str, object],
    signals: tuple[ReceivedSignal, ...] | None = None,
) -> Delivered:
    """Log that an outcome was delivered."""
    told_of = {"kind": claim.execution_kind, **about, "outcome": named(outcome), **why(outcome)}
    LOG.info("finished", extra={**told(claim), **told_of})
    return Delivered(named(outcome), signals, why(outcome))


def named(outcome: Outcome) -> str:
    """Return an outcome's name for logs and metrics."""
    is_handed_back = outcome is HANDED_BACK or isinstance(outcome, NotBegun)
    return "handed_back" if is_handed_back else type(outcome).__name__.lower()


def why(outcome: Outcome) -> dict[str, object]:
    """Return what the log says of a failure: its category, and the first line of its reason.

    A payload that does not fit is cited in the reason, and so that stays out of the log.
    """
    if not isinstance(outcome, Failed):
        return {}
    first_line = outcome.reason.partition("\n")[0][:REASON_CHARACTERS]
    reason = {} if outcome.category == "payload" else {"reason": first_line}
    return {"category": outcome.category, **reason}


def told(claim: Claim) -> dict[str, object]:
    """Return what every log line about an attempt carries."""
    return {"execution": claim.lease.execution_id, "attempt": claim.lease.attempt_index}
