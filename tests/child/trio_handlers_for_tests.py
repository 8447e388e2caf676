"""Async handlers on trio."""

from __future__ import annotations

import trio

from tests.child.async_handlers_for_tests import register

register("trio", trio.sleep)
