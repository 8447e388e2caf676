"""How the states of a flow's members add up to the state of the flow, as its summary has it."""

from __future__ import annotations

from collections.abc import Mapping

from ffsuper.messages import FINAL_STATES

# A member without a record. Retention deletes what has ended, and nothing else.
GONE = "unknown"
WENT_WRONG = ("failed", "cancelled", "expired")
HELD_UP = ("suspended", "delayed", "rate_limited", "waiting_children")
# The states that a summary has numbers of.
COUNTED = ("completed", *WENT_WRONG, "skipped", "active", "waiting", *HELD_UP)


def is_ended(counts: Mapping[str, int]) -> bool:
    """Tell whether all members have ended.

    Args:
        counts: public state -> how many members are in it.
    """
    return all(state in FINAL_STATES or state == GONE for state, count in counts.items() if count)


def flow_state(counts: Mapping[str, int]) -> str:
    """Return ``completed``, ``failed``, ``running``, ``blocked`` or ``open``.

    Args:
        counts: public state -> how many members are in it; of one member at least.

    Source: protocol 09, section 8, but for members that are gone: there they keep a flow from ever ending.
    """
    if is_ended(counts):
        return "failed" if any(counts.get(state) for state in WENT_WRONG) else "completed"
    if counts.get("active"):
        return "running"
    return "blocked" if any(counts.get(state) for state in HELD_UP) else "open"
