"""Handing outcomes to the store, as often as it takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from ffsuper.errors import LeaseLostError, StoreError
from ffsuper.messages import Claim, Deferred, Failed, Outcome, ReceivedSignal
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


@dataclass(frozen=True, slots=True)
class Delivered:
    """What has become of an outcome.

    Attributes:
        outcome: its name for logs and metrics; ``refused`` when the lease was not ours any more.
        signals: of a suspension whose signals have come already: the attempt goes on under its lease with these.
            Otherwise None.
        why: of a failure, what the log says of it.
    """

    outcome: str
    signals: tuple[ReceivedSignal, ...] | None = None
    why: Mapping[str, object] = field(default_factory=dict)


async def deliver(
    outcomes: Outcomes,
    claim: Claim,
    outcome: Outcome,
    pulse: Pulse,
    *,
    about: Mapping[str, object] = NOTHING,
    doubt: bool = False,
) -> Delivered:
    """Deliver an outcome.

    A try whose answer was lost may have been carried out; the fence then refuses the next one, and the lease history
    tells which it was.

    Args:
        about: what else the log says of the attempt.
        doubt: there has been such a try already.
    """
    outage = Outage(LOG)
    signals: tuple[ReceivedSignal, ...] | None = None
    while True:
        pulse.beat()
        try:
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
    kind = {"kind": claim.execution_kind}
    LOG.info("finished", extra={**told(claim), **kind, **about, "outcome": named(outcome), **why(outcome)})
    return Delivered(named(outcome), signals, why(outcome))


def named(outcome: Outcome) -> str:
    """Return an outcome's name for logs and metrics."""
    return "handed_back" if outcome is HANDED_BACK else type(outcome).__name__.lower()


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
