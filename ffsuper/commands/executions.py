"""What the subcommands do and print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ffsuper import config_loader
from ffsuper.admin.client import AdminClient
from ffsuper.client import Client
from ffsuper.clients import Execution
from ffsuper.commands.colour import painted_state
from ffsuper.config import StoreConfig
from ffsuper.errors import ConfigError, InvalidRequestError

MIB = 1 << 20
PATIENCE_S = 10.0


def open_client(options: argparse.Namespace) -> Client | AdminClient:
    """Return a client of the store or the server that the options name."""
    if options.server is not None:
        file = options.server_token_file
        return AdminClient(
            options.server,
            token=os.environ.get("FFSUPER_SERVER_TOKEN", "") if file is None else read_token(file),
            ca_file=options.server_ca_file,
        )
    return open_store(options)


def open_store(options: argparse.Namespace, patience_s: float = PATIENCE_S) -> Client:
    """Return a client of the store that the options name.

    Args:
        patience_s: for how long the store may be away.
    """
    return Client(store_settings(options), patience_s=patience_s)


def store_settings(options: argparse.Namespace) -> StoreConfig:
    """Return where the store is that the options name."""
    if options.store is not None:
        return StoreConfig(url=options.store)
    if options.config is not None:
        return config_loader.load(options.config, os.environ, needs_handlers=False).config.store
    return StoreConfig(
        url=os.environ.get("FFSUPER_STORE_URL", StoreConfig().url),
        password=os.environ.get("FFSUPER_STORE_PASSWORD", ""),
    )


def read_token(file: Path) -> str:
    """Return the token that stands in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    problems: list[str] = []
    token = config_loader.first_line(file, "token file", problems)
    if problems:
        raise ConfigError(problems)
    return token.strip()


def submit(options: argparse.Namespace) -> bool:
    """Submit, and wait if asked; False when it ended otherwise than completed."""
    payload, tags, policy = read_payload(options.payload), read_tags(options.tag), read_policy(options.policy)
    with open_client(options) as client:
        execution_id = client.submit(
            options.kind,
            payload,
            lane=options.lane,
            namespace=options.namespace,
            priority=options.priority,
            delay=options.delay,
            idempotency_key=options.idempotency_key,
            tags=tags,
            policy=policy,
        )
        if options.wait is None:
            print(json.dumps({"execution_id": execution_id}) if options.json else execution_id)
            return True
        print(execution_id, file=sys.stderr)
        return write_result(client, client.wait(execution_id, options.wait))


def read_payload(text: str) -> bytes:
    """Return the payload that the argument names: JSON text, ``@file``, or ``-`` for standard input.

    Raises:
        InvalidRequestError: the text is no JSON, or the file cannot be read.
    """
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as error:
            raise InvalidRequestError("submit", "invalid_input", (f"payload {text}: {error.strerror}",)) from None
    if text:
        try:
            json.loads(text)
        except ValueError as error:
            hint = "quote strings twice, as '\"text\"', or pass other data by @FILE or -"
            raise InvalidRequestError("submit", "invalid_input", (f"payload is not JSON: {error}; {hint}",)) from None
    return text.encode()


def read_tags(texts: list[str]) -> dict[str, str]:
    """Return tags given as ``NAME=VALUE``."""
    tags = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InvalidRequestError("submit", "invalid_input", (f"--tag {text!r}: must be NAME=VALUE",))
        tags[name] = value
    return tags


def read_policy(text: str) -> Mapping[str, object]:
    """Return the policy, a JSON object."""
    try:
        policy = json.loads(text or "{}")
    except ValueError as error:
        raise InvalidRequestError("submit", "invalid_policy_json", (f"--policy is not JSON: {error}",)) from None
    if not isinstance(policy, dict):
        raise InvalidRequestError("submit", "invalid_policy_json", ("--policy must be a JSON object",))
    return policy


def show(options: argparse.Namespace) -> bool:
    """Print one execution."""
    with open_client(options) as client:
        execution = client.show(options.execution)
        history = client.history(options.execution)
    if options.json:
        attempts = [with_crash_report(attempt) for attempt in execution.attempts]
        print(json.dumps({**asdict(execution), "attempts": attempts, "history": history}, indent=2))
    else:
        print("\n".join([described(execution), *map(event, history)]))
    return True


def with_crash_report(attempt: Mapping[str, str]) -> dict[str, object]:
    """Return an attempt with its crash report, if it has one, as an object; what is none stays text."""
    try:
        return {**attempt, "crash_report": json.loads(attempt["crash_report"])}
    except (KeyError, ValueError):
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
    return f"history     {moment(entry.get('ts', ''))}  {entry.get('event', '')}{': ' + rest if rest else ''}"


def signal(options: argparse.Namespace) -> bool:
    """Deliver a signal."""
    token = read_token(options.token_file) if options.token_file else ""
    with open_client(options) as client:
        delivery = client.signal(
            options.execution,
            options.name,
            read_payload(options.payload),
            waitpoint_id=options.waitpoint,
            token=token,
            idempotency_key=options.idempotency_key,
            source=options.source,
        )
    print(json.dumps(asdict(delivery)) if options.json else delivery.effect)
    return True


def tail(options: argparse.Namespace) -> bool:
    """Write an execution's frames as they come; False when it ended otherwise than completed."""
    with open_client(options) as client:
        for frame in client.tail(options.execution, live=options.follow):
            if options.json:
                told = {**asdict(frame), "payload": frame.payload.decode(errors="replace")}
                print(json.dumps(told), flush=True)
            else:
                sys.stdout.buffer.write(frame.payload + b"\n")
                sys.stdout.buffer.flush()
        return not options.follow or client.state(options.execution) == "completed"


def result(options: argparse.Namespace) -> bool:
    """Write the result; False when the execution ended otherwise than completed, or has not ended."""
    with open_client(options) as client:
        if options.wait is not None:
            return write_result(client, client.wait(options.execution, options.wait))
        return write_result(client, client.show(options.execution))


def write_result(client: Client | AdminClient, execution: Execution) -> bool:
    """Write the result's bytes to stdout, or what happened instead to stderr."""
    if execution.state == "completed":
        sys.stdout.buffer.write(client.result(execution.id) or b"")
        sys.stdout.flush()
        return True
    why = execution.record.get("failure_reason") or execution.record.get("cancellation_reason")
    told = f"{execution.id} is {execution.state}" if not why else f"{execution.id} is {execution.state}: {why}"
    print(f"ffsuper: {told}", file=sys.stderr)
    return False


def cancel(options: argparse.Namespace) -> bool:
    """Cancel one execution."""
    with open_client(options) as client:
        execution = client.cancel(options.execution, options.reason)
    print(
        json.dumps({"state": execution.state}) if options.json else f"{execution.id} {painted_state(execution.state)}"
    )
    return True


def replay(options: argparse.Namespace) -> bool:
    """Let one execution run again."""
    with open_client(options) as client:
        state = client.replay(options.execution)
    print(json.dumps({"state": state}) if options.json else f"{options.execution} {painted_state(state)}")
    return True


def list_lane(options: argparse.Namespace) -> bool:
    """Print executions of a lane, a line each."""
    with open_client(options) as client:
        found = client.list_lane(options.lane, options.state, options.limit)
    if options.json:
        print(json.dumps([asdict(execution) for execution in found], indent=2))
        return True
    for execution in found:
        created = moment(execution.record.get("created_at", ""))
        print(f"{execution.id}  {painted_state(execution.state, 16)}  {execution.kind:24}  {created}")
    return True


def described(execution: Execution) -> str:
    """Return an execution for people."""
    record = execution.record
    lines = [
        f"execution   {execution.id}",
        f"state       {painted_state(execution.state)}{because(record)}",
        f"kind        {execution.kind}    lane {execution.lane}    priority {record.get('priority', '0')}",
        f"created     {moment(record.get('created_at', ''))}{by(record.get('creator_identity', ''))}",
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
    lines += [f"tag         {name}={value}" for name, value in sorted(execution.tags.items())]
    for attempt in execution.attempts:
        started, ended = moment(attempt.get("started_at", "")), moment(attempt.get("ended_at", ""))
        lines.append(
            f"attempt {attempt.get('attempt_index', '?'):>2}  {attempt.get('attempt_type', '')}, "
            f"{attempt.get('attempt_state', '')}, on {attempt.get('worker_instance_id', '')}, "
            f"{f'{started} to {ended}' if ended else f'since {started}'}"
        )
        if reason := attempt.get("failure_reason"):
            lines.append(f"            {attempt.get('failure_category', '')}: {indented(reason)}")
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
        output = [f"{moment(one['at_ms'])[11:]}  {one['stream']}  {one['text']}" for one in report["output"]]
        return [
            f"crash   {end}{killed}{peak}",
            *(f"output  {line}" for line in output),
            *(f"stack   {line}" for line in report["stack_dump"]),
        ]
    except (ValueError, LookupError, TypeError, OverflowError):
        return [f"crash   {text}"]


def printable(text: str) -> str:
    """Return text without what would do something to a terminal, such as the escape sequences of a child's output."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text.expandtabs())


def because(record: Mapping[str, str]) -> str:
    """Say why an execution does not run, where the record tells."""
    reason, detail = record.get("blocking_reason", "none"), record.get("blocking_detail", "")
    if reason in ("none", "", "waiting_for_worker"):
        return ""
    return f" ({reason}: {indented(detail)})" if detail else f" ({reason})"


def by(creator: str) -> str:
    """Say who submitted, where it is known."""
    return f" by {creator}" if creator else ""


def indented(text: str) -> str:
    """Return text of several lines so that it stays under its heading."""
    return text.replace("\n", "\n            ")


def moment(text: str) -> str:
    """Return a protocol time for people, in UTC; empty when it is unset."""
    try:
        return datetime.fromtimestamp(float(text) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
    except ValueError:
        return ""
