"""What the subcommands do and print that are about one execution, or list some."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ffsuper.admin.client import AdminClient
from ffsuper.client import Client
from ffsuper.clients import Execution
from ffsuper.commands.colour import painted_state
from ffsuper.commands.exits import Exit
from ffsuper.commands.places import open_client, read_token
from ffsuper.commands.texts import described, event, harmless, moment, printable, with_crash_report
from ffsuper.errors import InvalidRequestError, LeaseLostError


def submit(options: argparse.Namespace) -> bool:
    """Submit, and wait if asked; False when it ended otherwise than completed."""
    payload, tags, policy = read_payload(options), read_tags(options.tag), read_policy(options.policy)
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


def read_payload(options: argparse.Namespace) -> bytes:
    """Return the payload that the options name: JSON text, ``@file``, or ``-`` for standard input.

    Raises:
        InvalidRequestError: the text is no JSON, or the file cannot be read.
    """
    text: str = options.payload
    if text == "-":
        if sys.stdin is None:
            raise wrong_payload(options, "payload -: standard input is closed")
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as error:
            raise wrong_payload(options, f"payload {text}: {error.strerror}") from None
    if text:
        try:
            json.loads(text)
        except ValueError as error:
            hint = "quote strings twice, as '\"text\"', or pass other data by @FILE or -"
            raise wrong_payload(options, f"payload is not JSON: {error}; {hint}") from None
    return text.encode()


def wrong_payload(options: argparse.Namespace, why: str) -> InvalidRequestError:
    """Return what is raised for a payload that cannot be sent."""
    return InvalidRequestError(options.subcommand, "invalid_input", (why,))


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
        missing = ""
        if isinstance(client, Client) and execution.state == "waiting" and not options.json:
            missing = client.fleet.missing_for(execution)
    if options.json:
        attempts = [with_crash_report(attempt) for attempt in execution.attempts]
        print(json.dumps({**asdict(execution), "attempts": attempts, "history": history}, indent=2))
    else:
        print("\n".join([described(execution, missing), *map(event, history)]))
    return True


def signal(options: argparse.Namespace) -> bool:
    """Deliver a signal."""
    token = read_token(options.token_file) if options.token_file else ""
    with open_client(options) as client:
        delivery = client.signal(
            options.execution,
            options.name,
            read_payload(options),
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
    print(f"ffsuper: {harmless(told)}", file=sys.stderr)
    return False


def cancel(options: argparse.Namespace) -> Exit:
    """Cancel one execution."""
    with open_client(options) as client:
        try:
            execution = client.cancel(options.execution, options.reason)
        except LeaseLostError:
            ended = client.show(options.execution)
            if not ended.is_final:
                raise
            print(f"ffsuper: {ended.id} has ended already: {ended.state}", file=sys.stderr)
            return Exit.INPUT
    print(
        json.dumps({"state": execution.state}) if options.json else f"{execution.id} {painted_state(execution.state)}"
    )
    return Exit.OK


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
        state = painted_state(printable(execution.state), 16)
        print(f"{execution.id}  {state}  {printable(execution.kind):24}  {created}")
    return True
