"""One line an event: key=value for people, JSON for machines.

Events are logged by the standard library: a short fixed text, and what it is about in ``extra``.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from ffsuper.config import LogConfig

# What every record of the standard library has; anything else came in by ``extra``.
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """``time level event key=value …``, values quoted where they hold white space."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        parts = [when(record), record.levelname.lower(), quoted(record.getMessage())]
        parts += [f"{key}={quoted(str(value))}" for key, value in particulars(record).items()]
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
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
        return json.dumps(event, ensure_ascii=False)


def when(record: logging.LogRecord) -> str:
    """Return the record's time in UTC, to the millisecond."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def particulars(record: logging.LogRecord) -> dict[str, object]:
    """Return what the event is about."""
    return {key: value for key, value in record.__dict__.items() if key not in STANDARD}


def quoted(text: str) -> str:
    """Return ``text`` so that it stays one word on one line."""
    if text and not any(sign in text for sign in ' \t\n\r"='):
        return text
    return json.dumps(text, ensure_ascii=False)


def set_up(settings: LogConfig) -> None:
    """Send the program's events to stderr."""
    as_keyvalue = settings.format == "keyvalue" or (settings.format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter() if as_keyvalue else JsonFormatter())
    root = logging.getLogger("ffsuper")
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    root.propagate = False
