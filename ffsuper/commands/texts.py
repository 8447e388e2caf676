"""An execution in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from ffsuper.clients import Execution
from ffsuper.commands.colour import painted_state

MIB = 1 << 20


def described(execution: Execution, missing: str = "") -> str:
    """Return an execution for people.

    Args:
        missing: see ``Fleet.missing_for``.
    """
    record = execution.record
    lines = [
        f"execution   {execution.id}",
        f"state       {painted_state(printable(execution.state))}{because(record)}",
        *([printable(f"waits       for a worker that {missing}: none of ffsuper does now")] if missing else []),
        printable(f"kind        {execution.kind}    lane {execution.lane}    priority {record.get('priority', '0')}"),
        printable(f"created     {moment(record.get('created_at', ''))}{by(record.get('creator_identity', ''))}"),
    ]
    optional = {
        "started": moment(record.get("started_at", "")),
        "ended": moment(record.get("completed_at", "")),
        "due": moment(record.get("delay_until", "")),
        "progress": f"{record.get('progress_pct', '')} {record.get('progress_message', '')}".strip(),
        "worker": record.get("current_worker_instance_id", ""),
        "failure": record.get("failure_reason", ""),
    }
    lines += [f"{name:10}  {indented(value)}" for name, value in optional.items() if value]
    lines += [printable(f"tag         {name}={value}") for name, value in sorted(execution.tags.items())]
    for attempt in execution.attempts:
        started, ended = moment(attempt.get("started_at", "")), moment(attempt.get("ended_at", ""))
        told = (
            f"attempt {attempt.get('attempt_index', '?'):>2}  {attempt.get('attempt_type', '')}, "
            f"{attempt.get('attempt_state', '')}, on {attempt.get('worker_instance_id', '')}, "
            f"{f'{started} to {ended}' if ended else f'since {started}'}"
        )
        lines.append(printable(told))
        if reason := attempt.get("failure_reason"):
            lines.append(f"            {printable(attempt.get('failure_category', ''))}: {indented(reason)}")
        lines += [f"            {printable(line)}" for line in crash_lines(attempt)]
    return "\n".join(lines)


def crash_lines(attempt: Mapping[str, str]) -> list[str]:
    """Return an attempt's crash report for people; nothing when it has none, one line of what is no such report."""
    text = attempt.get("crash_report", "")
    try:
        report = json.loads(text or "null")
        if report is None:
            return []
        end = report["signal"] or f"exit code {report['exit_code']}"
        killed = " from this worker" if report["why_killed"] else ""
        peak = f", peak {report['peak_memory_bytes'] / MIB:.0f} MiB" if report["peak_memory_bytes"] else ""
        output = [f"{in_utc(one['at_ms'])[11:]}  {one['stream']}  {one['text']}" for one in report["output"]]
        return [
            f"crash   {end}{killed}{peak}",
            *(f"output  {line}" for line in output),
            *(f"stack   {line}" for line in report["stack_dump"]),
        ]
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return [f"crash   {text}"]


def printable(text: str) -> str:
    """Return text without what would do something to a terminal, such as the escape sequences of a child's output."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text.expandtabs())


def harmless(text: str) -> str:
    """Return text of several lines, each as ``printable`` has it."""
    return "\n".join(map(printable, text.split("\n")))


def because(record: Mapping[str, str]) -> str:
    """Say why an execution does not run, where the record tells."""
    reason, detail = record.get("blocking_reason", "none"), record.get("blocking_detail", "")
    if reason in ("none", "", "waiting_for_worker"):
        return ""
    return f" ({printable(reason)}: {indented(detail)})" if detail else f" ({printable(reason)})"


def by(creator: str) -> str:
    """Say who submitted, where it is known."""
    return f" by {creator}" if creator else ""


def indented(text: str) -> str:
    """Return text of several lines so that it stays under its heading, and does nothing to a terminal."""
    return harmless(text).replace("\n", "\n            ")


def moment(text: str) -> str:
    """Return a protocol time for people, in UTC; empty when it is unset, or never comes."""
    try:
        return in_utc(text)
    except (ValueError, OverflowError):
        return ""


def in_utc(text: str) -> str:
    """Return a protocol time for people.

    Raises:
        ValueError, OverflowError: it is none, or none that a calendar has.
    """
    return datetime.fromtimestamp(float(text) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def with_crash_report(attempt: Mapping[str, str]) -> dict[str, object]:
    """Return an attempt with its crash report, if it has one, as an object; what is none stays text."""
    try:
        return {**attempt, "crash_report": json.loads(attempt["crash_report"])}
    except (KeyError, ValueError, RecursionError):
        return dict(attempt)


def event(entry: Mapping[str, str]) -> str:
    """Return one event of the lease history for people."""
    told = {
        "epoch": entry.get("lease_epoch") or entry.get("new_lease_epoch", ""),
        "attempt": entry.get("attempt_index") or entry.get("new_attempt_index", ""),
        "worker": entry.get("worker_instance_id") or entry.get("worker_id", ""),
        "reason": entry.get("reason", ""),
    }
    rest = ", ".join(f"{name} {value}" for name, value in told.items() if value)
    happened = f"{entry.get('event', '')}{': ' + rest if rest else ''}"
    return printable(f"history     {moment(entry.get('ts', ''))}  {happened}")
