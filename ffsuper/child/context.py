"""What a handler is given besides its payload. Imported inside children."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ffsuper.messages import Progress, Start


class Context:
    """The attempt that a handler runs.

    Attributes:
        execution_id: the execution.
        kind: what the handler is registered for.
        attempt_index: 0 for the first attempt; ``attempt_type`` says why there is another.
        attempt_type: ``initial``, ``retry``, ``replay``, ``reclaim`` or ``resumed``.
        tags: the submitter's labels.
        log: a logger whose lines end up in the worker's log, with the execution's id.
    """

    def __init__(self, start: Start, send: Callable[[Progress], None], is_draining: Callable[[], bool]) -> None:
        self.execution_id = start.execution_id
        self.kind = start.execution_kind
        self.attempt_index = start.attempt_index
        self.attempt_type = start.attempt_type
        self.tags: Mapping[str, str] = start.tags
        self.log = logging.getLogger(f"execution.{start.execution_id}")
        self._send = send
        self._is_draining = is_draining

    def progress(self, percent: float, message: str = "") -> None:
        """Record how far it is; an empty message keeps the earlier one.

        Args:
            percent: 0 to 100.

        Raises:
            ValueError: it is not.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"progress is {percent}, not 0 to 100")
        self._send(Progress(int(percent), message))

    @property
    def draining(self) -> bool:
        """Whether the worker is about to stop: a good moment to ``raise Defer(0)``."""
        return self._is_draining()
