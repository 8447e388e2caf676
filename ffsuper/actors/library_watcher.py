"""Notices that others have replaced the libraries by some that will not do for this program."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ffsuper.errors import StoreError, StoreUnsuitableError

LOG = logging.getLogger(__name__)

INTERVAL_S = 15.0


async def run(require: Callable[[], None]) -> None:
    """Look at the libraries from time to time, until cancelled.

    Args:
        require: ``require_libraries`` of ``store``; blocks.

    Raises:
        StoreUnsuitableError: they will not do.
    """
    while True:
        await trio.sleep(INTERVAL_S)
        try:
            await trio.to_thread.run_sync(require, abandon_on_cancel=True)
        except StoreUnsuitableError:
            raise
        except StoreError as error:
            LOG.debug("libraries not looked at", extra={"error": error})
