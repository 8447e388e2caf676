"""What ffsuper's programs ask of the store, read from the sources: the commands, and those inside the functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ffsuper.store.libraries import source_folder
from tests.system.workers import CHECKOUT

ACL_FOLDER = CHECKOUT / "config" / "acl"
CONTAINERS = ("ACL", "CLIENT", "CLUSTER", "CONFIG", "FUNCTION")
# What redis-py sends on its own: the name of a connection, and the database where it is not the first.
HANDSHAKE = frozenset({"client|setname", "select"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of Lua at the top level of its file: one function, with whatever stands behind it.

    Attributes:
        scope: its file, or nothing for what all files see.
    """

    scope: str
    name: str
    text: str


@cache
def chunks() -> Mapping[tuple[str, str], Chunk]:
    """Return all pieces of both libraries, by scope and name."""
    found = {}
    begins = re.compile(r"^(?:local function (\w+)|register\('(\w+)'|local (\w+) = )", re.MULTILINE)
    for file in sorted(source_folder().glob("*/*.lua")):
        text = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
        starts = list(begins.finditer(text))
        for start, following in zip(starts, [*starts[1:], None], strict=True):
            name = next(filter(None, start.groups()))
            is_seen_everywhere = file.parent.name == "shared" or start[2] is not None
            scope = "" if is_seen_everywhere else str(file)
            piece = text[start.end() : following.start() if following else len(text)]
            found[scope, name] = Chunk(scope or str(file), name, piece)
    return found


def reached(function: str) -> Iterator[Chunk]:
    """Yield the pieces that a function of the libraries may run; too many rather than too few."""
    known = chunks()
    waiting, seen = [known["", function]], {("", function)}
    while waiting:
        chunk = waiting.pop()
        yield chunk
        for word in set(re.findall(r"\w+", chunk.text)):
            for place in ((chunk.scope, word), ("", word)):
                if place in known and place not in seen:
                    seen.add(place)
                    waiting.append(known[place])
                    break


def commands_inside(function: str, known: Collection[str]) -> set[str]:
    """Return the commands that a function may run, all of them its caller's, as far as the server's ACL is concerned.

    Args:
        known: names of all commands of the server, in small letters.
    """
    called: set[str] = set()
    for chunk in {id(chunk): chunk for chunk in [*always_reached(), *reached(function)]}.values():
        called |= {name.lower() for name in re.findall(r"redis\.p?call\('([A-Z]+)'", chunk.text)}
        # Some are passed on to a helper that calls them.
        called |= {name.lower() for name in re.findall(r"'([A-Z]+)', \d", chunk.text)} & set(known)
    return called


def always_reached() -> Iterator[Chunk]:
    """Yield what runs around every function."""
    yield from reached("announce_filled")


@dataclass(frozen=True, slots=True)
class Needs:
    """What modules of ``ffsuper/store`` ask for.

    Attributes:
        commands: in small letters, a container's with its subcommand, as the ACL has them.
        functions: of the libraries.
    """

    commands: frozenset[str]
    functions: frozenset[str]


def needs_of(modules: Collection[str], known: Collection[str]) -> Needs:
    """Return what is written in modules of ``ffsuper``, as ``store/wire``.

    Args:
        known: names of all commands of the server, in small letters.
    """
    text = "\n".join((CHECKOUT / "ffsuper" / f"{module}.py").read_text(encoding="utf-8") for module in modules)
    text = re.sub(r"\{[^{}]*\}", "", text)  # sets of names are there to be compared with
    called = {name.lower() for name in re.findall(r'[(\[,]\s*\(?"([A-Z]+)"', text)} & set(known)
    called |= {f"{one}|{two}".lower() for one, two in re.findall(rf'"({"|".join(CONTAINERS)})", "([A-Z]+)"', text)}
    called -= {name.lower() for name in CONTAINERS}
    return Needs(frozenset(called), frozenset(re.findall(r'"(ff_[a-z_]+|ffsuper_[a-z_]+)"', text)))


def acl_files() -> list[Path]:
    """Return the ACL files."""
    return sorted(ACL_FOLDER.glob("*.acl"))
