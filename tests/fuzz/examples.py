"""How many examples a fuzz test looks at, and which."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

LONG = "long"
LONG_TIMES = 20  # some minutes a file


def fuzz(count: int) -> settings:
    """Return the settings of a test: the same ``count`` examples each time, or with profile ``long`` new ones, many.

    What the long profile finds is kept in ``.hypothesis``, and tried first the next time.
    """
    unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
    if settings.get_current_profile_name() == LONG:
        return settings(unhurried, max_examples=count * LONG_TIMES)
    return settings(unhurried, max_examples=count, derandomize=True, database=None)
