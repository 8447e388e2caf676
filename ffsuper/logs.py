"""One line an event: key=value for people, JSON for machines, each with its priority in front for the journal.

Events are logged by the standard library: a short fixed text, and what it is about in ``extra``. What one event, or
the output of one child, floods the log with is left out and counted; errors never are.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from ffsuper.config import LogConfig
from ffsuper.sansio.rate import RateLimit

LOG = logging.getLogger(__name__)

# What every record of the standard library has; anything else came in by ``extra``.
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
STDERR = 2
# Source: sd-daemon(3).
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))
# An event, and of the output of children whose.
Kind = tuple[str, int | None]
# The event of which each child has its own share.
OUTPUT = "output"


class KeyValueFormatter(logging.Formatter):
    """``time level event key=value …``, values quoted where they hold white space.

    Args:
        has_time: not for whoever notes the time by himself.
    """

    def __init__(self, *, has_time: bool = True) -> None:
        super().__init__()
        self._has_time = has_time

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        parts = [when(record)] if self._has_time else []
        parts += [record.levelname.lower(), quoted(record.getMessage())]
        parts += [f"{key}={quoted(str(value))}" for key, value in particulars(record).items()]
        if record.exc_info:
            parts.append(f"traceback={quoted(self.formatException(record.exc_info))}")
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event = {
            "time": when(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{
                key: value if isinstance(value, int | float | bool) else str(value)
                for key, value in particulars(record).items()
            },
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return as_json(event)


class JournalFormatter(logging.Formatter):
    """A line of another formatter, with the record's priority in front."""

    def __init__(self, line: logging.Formatter) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return f"<{priority(record.levelno)}>{self._line.format(record)}"


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes what its limit admits, and errors in any case; says how much was left out, at the latest when closed."""

    def __init__(self, limit: RateLimit[Kind]) -> None:
        super().__init__(sys.stderr)
        self._limit = limit

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it."""
        now_s = time.monotonic()
        self._tell(self._limit.take_dropped(now_s))
        if record.levelno >= logging.ERROR or self._limit.admits(kind_of(record), now_s):
            super().emit(record)

    def close(self) -> None:
        """Say what is still unsaid."""
        self.acquire()
        try:
            self._tell(self._limit.take_dropped())
        finally:
            self.release()
        super().close()

    def _tell(self, dropped: Mapping[Kind, int]) -> None:
        for kind, lines in dropped.items():
            super().emit(suppressed(kind, lines))


def kind_of(record: logging.LogRecord) -> Kind:
    """Return what a record shares its part of the log with."""
    event = str(record.msg)
    return event, record.__dict__.get("child") if event == OUTPUT else None


def suppressed(kind: Kind, lines: int) -> logging.LogRecord:
    """Return the record that so many lines were left out."""
    event, child = kind
    told: dict[str, object] = {"of": event, "lines": lines}
    if child is not None:
        told["child"] = child
    return LOG.makeRecord(LOG.name, logging.WARNING, "", 0, "suppressed", (), None, extra=told)


def priority(level: int) -> int:
    """Return the journal's number for a level."""
    return next(number for least, number in PRIORITIES if level >= least)


def when(record: logging.LogRecord) -> str:
    """Return the record's time in UTC, to the millisecond."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def particulars(record: logging.LogRecord) -> dict[str, object]:
    """Return what the event is about."""
    return {key: value for key, value in record.__dict__.items() if key not in STANDARD}


def quoted(text: str) -> str:
    """Return ``text`` so that it stays one word on one line."""
    if text and text.isprintable() and not any(sign in text for sign in ' "='):
        return text
    return as_json(text)


def as_json(value: object) -> str:
    """Return JSON on one line; what does not print is escaped with all that is not ASCII."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def set_up(settings: LogConfig) -> None:
    """Send what the program and its libraries log to stderr, in place of an earlier set-up.

    In the journal it is JSON unless told otherwise, as in files and pipes: collectors get one form wherever it runs.
    """
    is_terminal, in_journal = sys.stderr.isatty(), is_journal(os.environ.get("JOURNAL_STREAM", ""))
    formatter: logging.Formatter = JsonFormatter()
    if settings.format == "keyvalue" or (settings.format == "auto" and is_terminal):
        formatter = KeyValueFormatter(has_time=not in_journal)
    handler = LimitedHandler(RateLimit(settings.burst, settings.per_second))
    handler.setFormatter(JournalFormatter(formatter) if in_journal else formatter)
    root = logging.getLogger()
    for earlier in [one for one in root.handlers if isinstance(one, LimitedHandler)]:
        root.removeHandler(earlier)
        earlier.close()
    root.addHandler(handler)
    logging.getLogger("ffsuper").setLevel(settings.level.upper())
    if not is_terminal:
        sys.excepthook = log_defect


def is_journal(stream: str) -> bool:
    """Tell whether stderr goes to the journal.

    Args:
        stream: device and inode of the journal's socket, as in JOURNAL_STREAM. Source: systemd.exec(5).
    """
    try:
        status = os.fstat(STDERR)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def log_end(exit_code: int, how: str, error: BaseException | None, then: str, *, is_defect: bool) -> None:
    """Log that the program ends; as by default, where it has not come to read its settings.

    Args:
        how: the exit code's meaning.
        error: because of which.
        then: what to do about it, where the error does not say.
    """
    if not any(isinstance(one, LimitedHandler) for one in logging.getLogger().handlers):
        set_up(LogConfig())
    told = {"exit_code": exit_code, "how": how}
    if error is None:
        LOG.info("ended", extra=told)
        return
    if is_defect:
        log_defect(type(error), error, error.__traceback__)
    LOG.error("ended", extra={**told, "error": error, **({"then": then} if then else {})})


def log_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what ends the program, for ``sys.excepthook``."""
    LOG.critical("defect", extra={"error": error}, exc_info=(kind, error, trace))
