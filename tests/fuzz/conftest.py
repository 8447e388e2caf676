"""Fuzz tests look at the same examples each time; ``pytest tests/fuzz --hypothesis-profile=long`` at others."""

from __future__ import annotations

from hypothesis import settings

from tests.fuzz.examples import LONG

settings.register_profile(LONG, deadline=None, print_blob=True)
