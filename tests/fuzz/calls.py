"""Everything that is asked of the store, with arguments for it: found by looking, so that nothing is forgotten."""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import inspect
import itertools
import pkgutil
import types
import typing
from collections import abc
from collections.abc import Awaitable, Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Any, get_args, get_origin, get_type_hints

from ffsuper import store
from ffsuper.errors import StoreError
from ffsuper.messages import (
    AttemptId,
    Candidate,
    ClaimKind,
    Completed,
    ExecutionId,
    LaneId,
    Lease,
    LeaseId,
    OnTimeout,
    Outcome,
    ReportUsage,
    Suspended,
)
from ffsuper.store import replies
from ffsuper.store.admission import Obstacle
from ffsuper.store.claim_calls import ClaimDoubtError
from ffsuper.store.connection import Connection
from ffsuper.store.housekeeping import scan_call
from ffsuper.store.keys import BudgetKeys, QuotaKeys
from ffsuper.store.outcomes import Outcomes
from ffsuper.store.replies import Call
from ffsuper.store.wire import Wire

UUID = "0b1f3c52-9d6c-4a6e-8f0e-5b1d3d1f0a11"
LANE = LaneId("default")
EXECUTION = ExecutionId(f"{{fp:7}}:{UUID}")
LEASE = Lease(EXECUTION, LANE, LeaseId(UUID), 3, AttemptId(UUID), 0, 30_000, asked_at_s=0.0)
CANDIDATE = Candidate(EXECUTION, LANE, ClaimKind.NEW, "job")
SUSPENDED = Suspended("waiting_for_signal", ("a",), False, None, OnTimeout.FAIL, "")
# What cannot be anything of its type; all other values are made from their types.
ARGUMENTS: Mapping[Any, Any] = {
    ExecutionId: EXECUTION,
    LaneId: LANE,
    LeaseId: LeaseId(UUID),
    Lease: LEASE,
    Outcome: Completed(b"result"),
    Obstacle: Obstacle(EXECUTION, "blocked:quota", "why"),
    BudgetKeys: BudgetKeys(3, UUID),
    QuotaKeys: QuotaKeys(3, UUID),
    ReportUsage: ReportUsage(1, 1, UUID, {"tokens": 1}, ""),
    ClaimDoubtError: ClaimDoubtError(CANDIDATE, LEASE, StoreError("lost")),
    Connection: None,
    Wire: None,
    bytes: b"bytes",
    str: "text",
    int: 7,
    float: 1.5,
    bool: False,
    Any: "anything",
}


def is_union(hint: Any) -> bool:
    """Tell whether a type is one of several."""
    return isinstance(hint, types.UnionType)


def argument(hint: Any) -> Any:
    """Return a value of a type."""
    if hint in ARGUMENTS:
        return ARGUMENTS[hint]
    inner = get_args(hint)
    if is_union(hint):
        return argument(inner[0])
    match get_origin(hint):
        case abc.Mapping:
            return {argument(inner[0]): argument(inner[1])}
        case abc.Sequence | abc.Collection | abc.Container | builtins.list:
            # Of a union's types one of each.
            return [argument(one) for one in (get_args(inner[0]) if is_union(inner[0]) else inner)]
        case builtins.tuple:
            return tuple(argument(one) for one in inner if one is not Ellipsis)
        case abc.Callable:
            return lambda *_: argument(inner[1])
        case replies.Call:
            return scan_call("ffsuper_reconcile", ("key",), "0")
        case typing.Literal:
            return inner[0]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{one.name: argument(hints[one.name]) for one in dataclasses.fields(hint) if one.init})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    raise LookupError(f"no argument of type {hint}")


def arguments(function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments for a function, those in order and those by name; what has a default is left out."""
    hints = get_type_hints(function)
    wanted = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty]
    named = {one.name: argument(hints[one.name]) for one in wanted if one.kind is one.KEYWORD_ONLY}
    in_order = [one for one in wanted if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return [argument(hints[one.name]) for one in in_order if one.name in hints], named


def modules() -> Iterator[types.ModuleType]:
    """Yield the modules of the store."""
    for info in pkgutil.iter_modules(store.__path__):
        yield importlib.import_module(f"ffsuper.store.{info.name}")


def own(module: types.ModuleType, kind: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Yield what a module defines itself, by its name for people."""
    for name, found in inspect.getmembers(module, kind):
        if found.__module__ == module.__name__:
            yield f"{module.__name__.rpartition('.')[2]}.{name}", found


def calls() -> Iterator[tuple[str, Call[Any]]]:
    """Yield every call that a function of the store makes, by that function's name."""
    for module in modules():
        for name, function in own(module, inspect.isfunction):
            if "Call[" in str(function.__annotations__.get("return")) and name not in BUILDERS:
                in_order, named = arguments(function)
                made = function(*in_order, **named)
                yield from ((name, call) for call in (made if isinstance(made, list | tuple) else [made]))


def verbs() -> Iterator[tuple[str, Callable[[Connection], Awaitable[Any]]]]:
    """Yield everything that can be done through a connection, by its name."""
    yield "a suspension", suspend
    for module in modules():
        found: list[tuple[str, Any]] = [
            (name, partial(carry_out, function))
            for name, function in own(module, inspect.iscoroutinefunction)
            if next(iter(get_type_hints(function).values())) is Connection
        ]
        found += [
            (f"{name}.{verb}", partial(carry_out_by, kind, verb))
            for name, kind in own(module, inspect.isclass)
            if get_type_hints(kind.__init__).get("connection") is Connection
            for verb, method in vars(kind).items()
            if inspect.iscoroutinefunction(method) and not verb.startswith("_")
        ]
        yield from ((name, verb) for name, verb in found if name not in INNER)


def errands() -> Iterator[tuple[str, Callable[[Wire], Any]]]:
    """Yield everything that is done by a wire, which blocks, by its name."""
    for module in modules():
        for name, function in own(module, inspect.isfunction):
            if next(iter(get_type_hints(function).values()), None) is Wire and name not in BUILDERS:
                yield name, partial(do, function)


def do(function: Callable[..., Any], wire: Wire) -> Any:
    """Call a function that takes a wire; of what it yields, take some."""
    in_order, named = arguments(function)
    found = function(wire, *in_order[1:], **named)
    return list(itertools.islice(found, 20)) if inspect.isgenerator(found) else found


async def suspend(connection: Connection) -> Any:
    """Deliver the outcome that takes more than one call."""
    return await Outcomes(connection, "worker@host").deliver(LEASE, SUSPENDED, b"")


async def carry_out(function: Callable[..., Awaitable[Any]], connection: Connection) -> Any:
    """Call a function that takes a connection."""
    in_order, named = arguments(function)
    return await function(connection, *in_order[1:], **named)


async def carry_out_by(kind: Callable[..., Any], verb: str, connection: Connection) -> Any:
    """Call a method of a class that takes a connection."""
    in_order, named = arguments(kind.__init__)
    method = getattr(kind(connection, *in_order[1:], **named), verb)
    in_order, named = arguments(method)
    return await method(*in_order, **named)


# These take answers that were read already, from the verbs of ``Claims``.
INNER = ("batch_claims.settle", "batch_claims.settle_picks", "single_claims.SingleClaims.settle")
# What the others build calls with.
BUILDERS = ("replies.fcall", "sweeps.page_call", "libraries.reply_to", "presence.done")
