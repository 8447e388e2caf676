"""Whether what blocked executions wait for is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

# As good as without end.
ANY_NUMBER = 1_000_000_000


def tokens(text: str) -> frozenset[str]:
    """Return the parts of a comma-separated list; empty ones do not count."""
    return frozenset(token for token in text.split(",") if token)


def budget_ids(text: str) -> frozenset[str]:
    """Return the ids of a record's list of budgets."""
    return frozenset(token.strip() for token in tokens(text))


def capable(required: Iterable[str], offered: Collection[str]) -> dict[str, int]:
    """Return the requirements that some one worker meets all of.

    Args:
        required: capability lists of executions, comma-separated.
        offered: those of the workers that live.
    """
    workers = [tokens(text) for text in offered]
    return {
        text: ANY_NUMBER for text in required if not tokens(text) or any(tokens(text) <= worker for worker in workers)
    }


def within_budget(lists: Iterable[str], used_up: Collection[str]) -> dict[str, int]:
    """Return the lists of budget ids, comma-separated, none of which is used up."""
    return {text: ANY_NUMBER for text in lists if not budget_ids(text) & frozenset(used_up)}


def within_quota(waiting: Iterable[str], room: Mapping[str, int | None]) -> dict[str, int]:
    """Return the quotas that have room, and for how many."""
    found = {text: ANY_NUMBER if room[text] is None else room[text] or 0 for text in waiting}
    return {text: count for text, count in found.items() if count > 0}
