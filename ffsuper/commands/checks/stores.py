"""The store: whether a worker could start on it, and whether it keeps what it is given."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from ffsuper.commands.checks.finding import Finding, problem, warning
from ffsuper.config import StoreConfig
from ffsuper.errors import StoreAccessError, StoreError, StoreUnavailableError, StoreUnsuitableError
from ffsuper.store import keys, libraries
from ffsuper.store.announcements import ELIGIBLE, LEASE_ENDS, ORDERS
from ffsuper.store.cluster import is_cluster, open_wire
from ffsuper.store.embedded import EMBEDDED, why_not_started
from ffsuper.store.embedded_server import server_program
from ffsuper.store.libraries import FFSUPER, Held, Standing
from ffsuper.store.presence import read_partition_counts
from ffsuper.store.replies import ElsewhereError
from ffsuper.store.wire import Command, Wire

URL = "[store] url"
LIBRARY = "[store] library"
SKEW_S = 1.0
NO_EVICTION = "noeviction"
# Of what workers ask of the store, an example of each kind that a user may be forbidden.
NEEDED: tuple[Command, ...] = (
    ("FCALL", "ff_version", 1, keys.worker_alive("")),
    ("HGETALL", keys.PARTITION_CONFIG),
    ("SADD", keys.LANES, ""),
    ("SET", keys.worker_alive(""), ""),
    ("SUBSCRIBE", ELIGIBLE),
    ("SUBSCRIBE", LEASE_ENDS),
    ("SUBSCRIBE", ORDERS),
)
LOAD: Command = ("FUNCTION", "LOAD", "REPLACE", "")
# What is to be done about an error; the first class that fits decides.
REMEDIES: tuple[tuple[type[StoreError], str], ...] = (
    (ElsewhereError, ": write redis+cluster:// in the place of redis://"),
    (StoreAccessError, ": check [store] username and the password, and what the user may do"),
    (StoreUnsuitableError, ""),
    (StoreError, ": start it, or mend the URL"),
)


def look(settings: StoreConfig) -> Iterator[Finding]:
    """Yield what is wrong with the store; whatever is the matter, nothing is written."""
    if settings.url == EMBEDDED:
        yield from embedded(settings)
        return
    # Nothing is written, so there is nothing to wait for.
    with closing(open_wire(replace(settings, wait_replicas=0), "ffsuper-check")) as wire:
        try:
            for server in wire.servers():
                yield from look_at_server(server, settings)
            wire.run(read_partition_counts())
        except StoreError as error:
            remedy = next(text for kind, text in REMEDIES if isinstance(error, kind))
            yield problem(f"{URL}: {str(error).rstrip('.')}{remedy}", type(error))


def embedded(settings: StoreConfig) -> Iterator[Finding]:
    """Yield what keeps a private server from being started, or its data from being kept."""
    folder = settings.data_dir
    nearest = next(one for one in (folder, *folder.parents) if one.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        yield problem(f"[store] data_dir: nothing can be written into {nearest}: name another folder")
    if server_program() is not None:
        return
    if importlib.util.find_spec("fakeredis") is None:
        yield problem(f"{URL}: {why_not_started('missing', '')}", StoreUnavailableError)
    else:
        yield warning(
            f"{URL}: there is no redis-server or valkey-server 7 or later on PATH, so the embedded store is in "
            "memory and ends with the worker: install one for anything but a first try"
        )


def look_at_server(server: Wire, settings: StoreConfig) -> Iterator[Finding]:
    """Yield what is wrong with one server.

    Raises:
        StoreError: it cannot be asked, has no functions, or belongs to a cluster that the URL does not tell of.
    """
    held = [libraries.held(server, name) for name in libraries.NAMES]
    for one in held:
        yield from look_at_library(one, server, settings.library)
    yield from forbidden(server, [*NEEDED, LOAD] if any(is_loaded(one, settings.library) for one in held) else NEEDED)
    yield from skewed(server, time.time)
    info = info_of(server)
    if info.get("cluster_enabled") == "1" and not is_cluster(settings):
        raise ElsewhereError("the server belongs to a cluster", "", is_moved=False)
    yield from look_at_info(info, settings)
    if info.get("aof_enabled") == "0" and option_of(server, "save") == "":
        yield warning(
            f"{URL}: the store writes nothing to disk (appendonly no, and no save), so that its restart loses all "
            "executions: set appendonly yes"
        )


def is_loaded(held: Held, mode: libraries.Mode) -> bool:
    """Tell whether a worker that starts loads ours in the place of what there is."""
    if held.standing is Standing.FOREIGN:
        return mode == "replace"
    return mode != "never" and held.standing in (Standing.MISSING, Standing.OLDER)


def look_at_library(held: Held, server: Wire, mode: libraries.Mode) -> Iterator[Finding]:
    """Yield what a worker that starts would find wrong with a library, and what it would do about that."""
    name, version, own = held.name, held.version, libraries.own_mark(held.name)
    match held.standing, mode:
        case Standing.MISSING, "never":
            told = f'the store lacks library {name}, and "never" forbids loading it'
            yield problem(f"{LIBRARY}: {told}: {libraries.LOADED_BY_OTHERS}", StoreUnsuitableError)
        case Standing.OLDER, "never":
            told = f'the store holds an older library {name} ({version}; ours is {own}), and "never" forbids loading'
            yield warning(f'{LIBRARY}: {told} ours: set it to "auto", or run ffsuper library --load with --store')
        case Standing.NEWER, _:
            told = f"the store holds a newer library {name} ({version}; ours is {own}), which stays"
            yield warning(f"{LIBRARY}: {told}: upgrade this worker")
        case Standing.FOREIGN, "replace":
            told = f"a worker that starts replaces the foreign library {name} by ours"
            yield warning(f'{LIBRARY}: {told}: set it to "auto" if somebody else needs that one')
        case Standing.FOREIGN, _ if name == FFSUPER:
            told = f"the store holds a library {name} that is not ours"
            yield problem(f'{LIBRARY}: {told}: set it to "replace" once', StoreUnsuitableError)
            return
    if held.standing is not Standing.MISSING and not is_loaded(held, mode):
        told = libraries.shortcoming(server, name)
        if told:
            remedy = libraries.REMEDIES.get(held.standing, libraries.NO_REMEDY)
            yield problem(f"{LIBRARY}: {told}: {remedy}", StoreUnsuitableError)


def forbidden(server: Wire, needed: Sequence[Command]) -> Iterator[Finding]:
    """Yield what our user may not do, as far as it may ask."""
    try:
        user = libraries.reply_to(server, "ACL", "WHOAMI")
        answers = [libraries.reply_to(server, "ACL", "DRYRUN", user, *command) for command in needed]
    except StoreError:
        return
    for answer in answers:
        if answer != b"OK":
            told = answer.decode(errors="replace")
            yield problem(f"[store] username: {told}: allow it by ACL SETUSER", StoreAccessError)


def skewed(server: Wire, now_s: Callable[[], float]) -> Iterator[Finding]:
    """Yield that the store's clock and ours differ, beyond what the way there and back may account for."""
    asked_s = now_s()
    seconds, microseconds = libraries.reply_to(server, "TIME")
    answered_s = now_s()
    skew_s = int(seconds) + int(microseconds) / 1e6 - (asked_s + answered_s) / 2
    if abs(skew_s) - (answered_s - asked_s) / 2 > SKEW_S:
        how = "ahead of" if skew_s > 0 else "behind"
        yield warning(
            f"{URL}: the store's clock is {abs(skew_s):.1f} s {how} this machine's, and deadlines are off by as "
            "much: have both set by the same time servers"
        )


def look_at_info(info: Mapping[str, str], settings: StoreConfig) -> Iterator[Finding]:
    """Yield what is wrong with a server by its own account."""
    if info.get("role") == "slave":
        yield problem(f"{URL}: this is a replica, which takes no writes: name its master", StoreUnavailableError)
    policy = info.get("maxmemory_policy", NO_EVICTION)
    if policy != NO_EVICTION:
        yield warning(
            f"{URL}: the store deletes keys when its memory is full (maxmemory-policy {policy}), and executions with "
            f"them: set maxmemory-policy {NO_EVICTION}"
        )
    replicas = info.get("connected_slaves", "")
    if replicas.isdigit() and int(replicas) < settings.wait_replicas:
        yield warning(
            f"[store] wait_replicas: {settings.wait_replicas} are to have what is written, and the store has "
            f"{replicas}: nothing is acknowledged until it has more; add replicas, or lower it"
        )


def info_of(server: Wire) -> Mapping[str, str]:
    """Return what INFO tells; nothing where we may not ask."""
    try:
        lines = libraries.reply_to(server, "INFO").decode(errors="replace").splitlines()
    except StoreError:
        return {}
    return dict(line.split(":", 1) for line in lines if ":" in line)


def option_of(server: Wire, name: str) -> str | None:
    """Return an option of the server's configuration; None where we may not ask."""
    try:
        found = libraries.reply_to(server, "CONFIG", "GET", name)
    except StoreError:
        return None
    return found[1].decode(errors="replace") if len(found) == 2 else None
