"""Commands that look at what executions run on: the configuration, the store's libraries, the versions of all."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tomllib
from collections import Counter
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ffsuper import config_loader
from ffsuper.commands.checks.finding import problem
from ffsuper.commands.checks.report import Report, look
from ffsuper.commands.colour import Meaning, painted
from ffsuper.commands.exits import Exit, exit_of
from ffsuper.commands.places import store_settings
from ffsuper.errors import ConfigError
from ffsuper.store import embedded, libraries, loading
from ffsuper.store.cluster import open_wire
from ffsuper.store.libraries import Held, Standing
from ffsuper.store.store import prepare

MEANINGS = {Standing.OURS: Meaning.GOOD, Standing.MISSING: Meaning.BAD}
WHAT_THEN = {
    Standing.OURS: "",
    Standing.OLDER: "ours is {own}: workers load it when they start, ffsuper library --load at once",
    Standing.NEWER: "ours is {own}: workers leave the newer one alone, ffsuper library --load replaces it",
    Standing.FOREIGN: 'ours is {own}: loaded in its place only where [store] library = "replace"',
    Standing.MISSING: "ours is {own}: workers load it when they start, ffsuper library --load at once",
}


def print_versions() -> None:
    """Print our version, and those of what we run on and bring."""
    print(f"ffsuper {version('ffsuper')}")
    print(f"python {platform.python_version()}")
    print(f"protocol {libraries.PROTOCOL_VERSION.decode()}")
    for name in libraries.NAMES:
        print(f"library {name} {libraries.own_mark(name)}")


def check(options: argparse.Namespace) -> Exit:
    """Print every setting with its value and where it came from, and all that is wrong or may go wrong with it."""
    rows: list[tuple[str, str, str]] = []
    try:
        loaded = config_loader.load(options.config, os.environ)
    except ConfigError as error:
        report = Report(findings=[problem(text) for text in error.problems])
    else:
        rows = config_loader.describe(loaded)
        if not options.json:
            print_settings(rows)
        report = look(loaded.config, options.config, options.unit, offline=options.offline)
    if options.json:
        texts = {name: [one.text for one in getattr(report, name)] for name in ("problems", "warnings")}
        print(json.dumps({**texts, "kinds": report.kinds, "settings": settings_of(rows)}, indent=2))
    sys.stdout.flush()
    tell(report, options.config)
    return next((exit_of(one.error) or Exit.DEFECT for one in report.findings if one.error is not None), Exit.OK)


def print_settings(rows: list[tuple[str, str, str]]) -> None:
    """Print what ``config_loader.describe`` tells."""
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for place, value, origin in rows:
        print(f"{place:{widths[0]}}  {value:{widths[1]}}  {painted(origin, Meaning.DIM)}")


def tell(report: Report, file: Path) -> None:
    """Print what the checks have found."""
    if report.kinds:
        print(f"ffsuper: {file}: handlers for {', '.join(report.kinds)}", file=sys.stderr)
    for one in report.findings:
        print(f"ffsuper: {'' if one.error else 'warning: '}{one.text}", file=sys.stderr)
    print(f"ffsuper: {file}: {report.summary()}", file=sys.stderr)


def settings_of(rows: list[tuple[str, str, str]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what ``config_loader.describe`` tells, by section and key; what is absent is an empty text there too."""
    settings: dict[str, dict[str, dict[str, Any]]] = {}
    for place, value, origin in rows:
        section, key = place.removeprefix("[").split("] ")
        read = tomllib.loads(f"value = {value}")["value"]
        settings.setdefault(section, {})[key] = {"value": read, "origin": origin}
    return settings


def library(options: argparse.Namespace) -> bool:
    """Print which libraries the store holds, after loading ours if asked, and making the rest of it ready."""
    settings = store_settings(options)
    if options.load and settings.library == "never":
        raise ConfigError(['[store] library = "never" forbids loading libraries: set it to "auto"'])
    with embedded.reachable(settings, owner=False) as store, closing(open_wire(store, "ffsuper-library")) as wire:
        if options.load:
            loading.put_ours(wire, settings.library)
            prepare(store, embedded.new_counts(settings), thoroughly=True)
        found = Counter(libraries.look(wire))
    if options.json:
        print(json.dumps([told(one, servers) for one, servers in found.items()], indent=2))
        return True
    for one, servers in found.items():
        standing = painted(f"{one.standing.value:8}", MEANINGS.get(one.standing, Meaning.WAITING))
        place = "" if servers == found.total() // len(libraries.NAMES) else f"on {servers} of the servers"
        then = WHAT_THEN[one.standing].format(own=libraries.own_mark(one.name))
        print("  ".join(part for part in (f"{one.name:10}", standing, one.version, place, then) if part).rstrip())
    return True


def told(held: Held, servers: int) -> dict[str, str | int]:
    """Return what ``library --json`` prints of a library."""
    return {
        "name": held.name,
        "standing": held.standing.value,
        "version": held.version,
        "own_version": str(libraries.own_mark(held.name)),
        "servers": servers,
    }
