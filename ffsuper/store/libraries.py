"""The two function libraries: assembly from ``lua/``, what servers hold of them, and whether that will do.

The server takes a library as one text. Shared parts come first, in the order of their file names, then the library's
own files, whose locals are their own. In library ``ffsuper`` the protocol's functions stand in between: its sweeps
carry them out, whoever's ``flowfabric`` is loaded. The second line says that the text is ours, and which: a library
without it is foreign.

Programs of several releases share a store, and one library at a time. In library ``ffsuper`` the name of a function
stands for its arguments and replies for ever. So the server itself refuses a call that it would misunderstand, also
when the library has been replaced a moment ago.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ffsuper.errors import LibraryMissingError, StoreScriptError, StoreUnsuitableError
from ffsuper.store.replies import Call, Part, as_bytes
from ffsuper.store.wire import Wire

FLOWFABRIC = "flowfabric"
FFSUPER = "ffsuper"
NAMES = (FLOWFABRIC, FFSUPER)
PROTOCOL_VERSION = b"5"
# Functions of library ``ffsuper`` that callers can do without: they use the protocol's own, or leave it at that.
SPARED = frozenset(
    {"ffsuper_claim_first", "ffsuper_hand_back", "ffsuper_install_secret", "ffsuper_renew"}
    | {"ffsuper_report_crash", "ffsuper_waiting"}
)
Mode = Literal["auto", "replace", "never"]


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """Which text of ours a library is.

    Attributes:
        release: ffsuper's version as numbers.
        digest: of the text.
    """

    release: tuple[int, ...]
    digest: str

    @property
    def line(self) -> str:
        """The comment that carries the mark."""
        return f"-- ffsuper {self}"

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.release))} {self.digest}"

    @classmethod
    def found_in(cls, code: str) -> Mark | None:
        """Return the mark of a loaded library's text, or None when it is not ours."""
        found = re.search(r"^-- ffsuper ([0-9.]+) ([0-9a-f]+)$", code, re.MULTILINE)
        return cls(release_numbers(found[1]), found[2]) if found else None


class Standing(Enum):
    """How a library that a store holds stands to ours."""

    OURS = "ours"
    OLDER = "older"  # or of the same release with another text: of a checkout
    NEWER = "newer"
    FOREIGN = "foreign"
    MISSING = "missing"

    @classmethod
    def of(cls, code: str | None, own: Mark) -> Standing:
        """Return the standing of a library with this text; None when there is none."""
        if code is None:
            return cls.MISSING
        mark = Mark.found_in(code)
        if mark is None:
            return cls.FOREIGN
        if mark == own:
            return cls.OURS
        return cls.OLDER if mark.release <= own.release else cls.NEWER


# What is to be done about a library that will not do.
REMEDIES = {
    Standing.NEWER: "upgrade this worker, or go back to its libraries with ffsuper library --load",
    Standing.OLDER: 'set [store] library = "auto", or load the libraries of this release with ffsuper library --load',
}
LOADED_BY_OTHERS = "run ffsuper library --load as a user who may load libraries"
NO_REMEDY = 'upgrade one of the two, or set [store] library = "replace"'


@dataclass(frozen=True, slots=True)
class Held:
    """What a server holds under the name of a library.

    Attributes:
        version: its mark; of a foreign ``flowfabric`` what it says that it speaks, else empty.
    """

    name: str
    standing: Standing
    version: str


def release_numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, ``0.1.0rc1`` as (0, 1, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


@cache
def source_folder() -> Path:
    """Return the folder with the Lua sources: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "lua"
    return installed if installed.is_dir() else package.parent / "lua"


def source(name: str) -> str:
    """Return the parts of library ``name`` in one text."""
    folder = source_folder()
    parts = {part: sorted((folder / part).glob("*.lua")) for part in ("shared", FLOWFABRIC, FFSUPER)}
    shared = [file.read_text(encoding="utf-8") for file in parts["shared"]]
    own = parts[FLOWFABRIC] + (parts[FFSUPER] if name == FFSUPER else [])
    # A library has at most 200 locals at its top level; those of a file are none of them.
    blocks = [f"do\n{file.read_text(encoding='utf-8')}end" for file in own]
    return "\n".join([f"local library = '{name}'", *shared, *blocks])


@cache
def own_mark(name: str) -> Mark:
    """Return the mark of our text of library ``name``."""
    return Mark(release_numbers(version("ffsuper")), hashlib.sha256(source(name).encode()).hexdigest()[:12])


@cache
def assemble(name: str) -> str:
    """Return the whole text of library ``name``, ready for FUNCTION LOAD."""
    return f"#!lua name={name}\n{own_mark(name).line}\n{source(name)}"


@cache
def needed() -> frozenset[str]:
    """Return the functions of library ``ffsuper`` that its callers cannot do without."""
    return frozenset(re.findall(r"^register\('(ffsuper_\w+)'", source(FFSUPER), re.MULTILINE)) - SPARED


def require(wire: Wire) -> None:
    """Make sure that the libraries will do that one server holds.

    Raises:
        StoreUnsuitableError: they will not.
    """
    for name in NAMES:
        require_one(wire, name)


def require_one(wire: Wire, name: str) -> None:
    """Make sure that one of them will do.

    Raises:
        StoreUnsuitableError: it will not.
    """
    if told := shortcoming(wire, name):
        standing = Standing.of(loaded_code(wire, name), own_mark(name))
        raise StoreUnsuitableError(f"{told}: {REMEDIES.get(standing, NO_REMEDY)}")


def shortcoming(wire: Wire, name: str) -> str:
    """Say why a library that one server holds will not do; nothing when it will."""
    return other_version(wire) if name == FLOWFABRIC else lacking(wire)


def other_version(wire: Wire) -> str:
    """Say that library ``flowfabric`` speaks another version of the protocol; nothing when it does not."""
    spoken = version_spoken(wire)
    if spoken == PROTOCOL_VERSION:
        return ""
    told = spoken.decode(errors="replace") or "(not told)"
    own = PROTOCOL_VERSION.decode()
    return f"the store holds library {FLOWFABRIC} version {told}, and this worker speaks version {own}"


def lacking(wire: Wire) -> str:
    """Say what library ``ffsuper`` lacks; nothing when it has all that is needed."""
    lacks = sorted(needed() - functions(wire, FFSUPER))
    if not lacks:
        return ""
    more = f" and {len(lacks) - 1} more" if lacks[1:] else ""
    return f"the store holds a library {FFSUPER} without {lacks[0]}{more}, which this worker calls"


def look(wire: Wire) -> list[Held]:
    """Return what each server holds.

    Raises:
        StoreError: see ``loaded_code``.
    """
    return [held(server, name) for server in wire.servers() for name in NAMES]


def announce_eligible(wire: Wire) -> bool:
    """Tell whether every server's functions announce where there is something to do; ours do, and later ones.

    Raises:
        StoreError: see ``loaded_code``.
    """
    standings = [Standing.of(loaded_code(server, FLOWFABRIC), own_mark(FLOWFABRIC)) for server in wire.servers()]
    return all(standing in (Standing.OURS, Standing.NEWER) for standing in standings)


def held(wire: Wire, name: str) -> Held:
    """Return what one server holds."""
    code = loaded_code(wire, name)
    standing, mark = Standing.of(code, own_mark(name)), Mark.found_in(code or "")
    if standing is Standing.FOREIGN and name == FLOWFABRIC:
        return Held(name, standing, f"protocol {version_spoken(wire).decode(errors='replace')}")
    return Held(name, standing, "" if mark is None else str(mark))


def functions(wire: Wire, name: str) -> frozenset[str]:
    """Return the names of the functions of a library that the store holds."""
    return wire.run(Call(("FUNCTION", "LIST", "LIBRARYNAME", name), functions_of))


def functions_of(found: Any) -> frozenset[str]:
    """Read the list of libraries of one name."""
    if not found:
        return frozenset()
    members = dict(zip(found[0][::2], found[0][1::2], strict=True))
    return frozenset(as_bytes(one[one.index(b"name") + 1]).decode(errors="replace") for one in members[b"functions"])


def loaded_code(wire: Wire, name: str) -> str | None:
    """Return the text of a library that the store holds, or None.

    Raises:
        StoreUnsuitableError: the server knows no functions.
    """
    try:
        return wire.run(Call(("FUNCTION", "LIST", "LIBRARYNAME", name, "WITHCODE"), code_of))
    except StoreScriptError as error:
        raise StoreUnsuitableError(
            f"the store knows no functions ({error}): ffsuper needs Redis 7.0, Valkey 7.2 or later"
        ) from None


def code_of(found: Any) -> str | None:
    """Read the list of libraries of one name."""
    if not found:
        return None
    members = dict(zip(found[0][::2], found[0][1::2], strict=True))
    return as_bytes(members[b"library_code"]).decode(errors="replace")


def version_spoken(wire: Wire) -> bytes:
    """Return which version of the protocol library ``flowfabric`` says that it speaks; empty when it says none."""
    try:
        return wire.run(Call(("FCALL", "ff_version", 0), as_bytes))
    except (LibraryMissingError, StoreScriptError):
        return b""


def reply_to(wire: Wire, *command: Part) -> Any:
    """Return the reply to one command as it comes.

    Raises:
        StoreError: see ``Wire.run``.
    """
    return wire.run(Call(command, lambda reply: reply))
