"""What the Lua tests share: calls by name, the keyspace as plain values, and what a call changed in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

Arg = str | bytes | int | float


@dataclass
class Changes:
    """Difference of two keyspaces, field by field.

    Attributes:
        written: ``{key: value}`` of keys that are new or changed; a hash lists its changed fields only, a stream its
            added entries as ``(field, value, …)`` tuples, a set or zset its added or re-scored members.
        removed: ``{key: what went}``: for a key that is gone its old value, for a hash its vanished fields, for a
            set or zset its vanished members.
    """

    written: dict[str, Any] = field(default_factory=dict)
    removed: dict[str, Any] = field(default_factory=dict)


class World:
    """One server, its calls and its keyspace."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client

    def now_ms(self) -> int:
        """Return the server's clock, in the protocol's milliseconds."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def call(self, function: str, keys: list[str], args: list[Arg]) -> Any:
        """Call a function; return its reply with all bytes decoded (latin-1 keeps any byte)."""
        return decoded(self.command("FCALL", function, len(keys), *keys, *args))

    def try_call(self, function: str, keys: list[str], args: list[Arg]) -> Any:
        """Call a function; return its reply, or the text of a script error."""
        try:
            return self.call(function, keys, args)
        except redis.ResponseError as error:
            return str(error)

    def command(self, *parts: Arg) -> Any:
        """Run any command; return the client's reply."""
        return self.redis.execute_command(*parts)  # type: ignore[no-untyped-call]

    def printed(self, number: str) -> str:
        """Return a number as this server prints those of a function: with 17 digits, or no more than it takes."""
        return str(decoded(self.command("EVAL", "return redis.call('ECHO', tonumber(ARGV[1]))", 0, number)))

    def keyspace(self) -> dict[str, Any]:
        """Return every key with its value as plain text: str, dict, set, ``{member: score}``, list of entries."""
        return {decoded(key): self.value(decoded(key)) for key in self.redis.keys("*")}

    def value(self, key: str) -> Any:
        """Return one key's value, or None when there is no such key."""
        kind = decoded(self.redis.type(key))
        if kind == "string":
            return decoded(self.redis.get(key))
        if kind == "hash":
            return decoded(self.redis.hgetall(key))
        if kind == "set":
            return decoded(self.redis.smembers(key))
        if kind == "zset":
            members: Any = self.redis.zrange(key, 0, -1, withscores=True)
            return {decoded(member): score for member, score in members}
        if kind == "stream":
            return [tuple(decoded(fields)) for _, fields in raw_entries(self.redis.xrange(key))]
        return None

    @contextmanager
    def changes(self) -> Iterator[Changes]:
        """Record what the block changes in the keyspace; read the result after the block."""
        before = self.keyspace()
        found = Changes()
        yield found
        after = self.keyspace()
        for key in before.keys() | after.keys():
            written, removed = difference(before.get(key), after.get(key))
            if written:
                found.written[key] = written
            if removed:
                found.removed[key] = removed

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Assert that the block leaves every key and every expiry as it was."""
        before, expiries = self.keyspace(), self.expiries()
        yield
        assert self.keyspace() == before
        assert self.expiries() == expiries

    @contextmanager
    def messages(self) -> Iterator[list[tuple[str, str]]]:
        """Collect what the block publishes, each as channel and text; read them after the block."""
        found: list[tuple[str, str]] = []
        with self.redis.pubsub() as subscription:  # type: ignore[no-untyped-call]
            subscription.psubscribe("*")
            told = subscription.listen()
            assert next(told)["type"] == "psubscribe"
            yield found
            self.command("PUBLISH", "end", "")
            found += iter(lambda: tuple(decoded([(one := next(told))["channel"], one["data"]])), ("end", ""))

    def expiries(self) -> dict[str, int]:
        """Return ``{key: absolute expiry in ms}`` of the keys that have one."""
        found = {decoded(key): int(self.command("PEXPIRETIME", key)) for key in self.redis.keys("*")}
        return {key: at for key, at in found.items() if at > 0}


def decoded(value: Any) -> Any:
    """Return ``value`` with all bytes inside as text."""
    match value:
        case bytes():
            return value.decode("latin-1")
        case list() | tuple():
            return [decoded(item) for item in value]
        case set():
            return {decoded(item) for item in value}
        case dict():
            return {decoded(key): decoded(item) for key, item in value.items()}
        case _:
            return value


def raw_entries(entries: Any) -> list[tuple[bytes, list[bytes]]]:
    """Return stream entries as ``(id, [field, value, …])``, however the client shaped them."""
    shaped = []
    for entry_id, fields in entries:
        flat = [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else list(fields)
        shaped.append((entry_id, flat))
    return shaped


def difference(before: Any, after: Any) -> tuple[Any, Any]:
    """Return what is new in ``after`` and what of ``before`` is gone."""
    if before == after:
        return None, None
    if before is None:
        return after, None
    if after is None:
        return None, before
    if isinstance(before, dict) and isinstance(after, dict):
        written = {key: value for key, value in after.items() if before.get(key) != value}
        return written, {key: value for key, value in before.items() if key not in after}
    if isinstance(before, set) and isinstance(after, set):
        return after - before, before - after
    if isinstance(before, list) and isinstance(after, list):
        return list(after[len(before) :]), None
    return after, None
