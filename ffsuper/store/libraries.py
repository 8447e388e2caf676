"""The two function libraries: assembly from ``lua/``, and putting them into the store.

The server takes a library as one text. Shared parts come first, in the order of their file names, then the library's
own files, whose locals are their own. In library ``ffsuper`` the protocol's functions stand in between: its sweeps
carry them out, whoever's ``flowfabric`` is loaded. The second line says that the text is ours, and which: a library
without it is foreign.
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

from ffsuper.errors import StoreScriptError, StoreUnsuitableError
from ffsuper.store.replies import Call, Part, as_bytes
from ffsuper.store.wire import Wire

FLOWFABRIC = "flowfabric"
FFSUPER = "ffsuper"
NAMES = (FLOWFABRIC, FFSUPER)
PROTOCOL_VERSION = b"5"
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


def prepare(wire: Wire, mode: Mode) -> None:
    """Make sure that the store holds both libraries, loading what is missing or an older one of ours.

    A foreign ``flowfabric`` library of the right protocol version is left alone.

    Raises:
        StoreUnsuitableError: the server has no functions, or a library that we may not replace.
        StoreError: the store cannot be asked.
    """
    for server in wire.servers():
        prepare_server(server, mode)


def prepare_server(wire: Wire, mode: Mode) -> None:
    """Do so on one server."""
    for name in NAMES:
        match Standing.of(loaded_code(wire, name), own_mark(name)):
            case Standing.MISSING:
                load(wire, name, mode)
            case Standing.OLDER if mode != "never":
                load(wire, name, mode)
            case Standing.FOREIGN if mode == "replace":
                load(wire, name, mode)
    spoken = version_spoken(wire)
    if spoken != PROTOCOL_VERSION:
        raise StoreUnsuitableError(
            f"the store holds library flowfabric version {spoken.decode(errors='replace')}, and this worker speaks "
            f'version {PROTOCOL_VERSION.decode()}: upgrade one of the two, or set [store] library = "replace"'
        )


def put_ours(wire: Wire, mode: Mode) -> None:
    """Do as ``prepare``, and load ours in place of newer ones of ours too: the way back from an upgrade.

    Raises:
        StoreError: see ``prepare``.
    """
    for server in wire.servers():
        for name in NAMES:
            if Standing.of(loaded_code(server, name), own_mark(name)) is Standing.NEWER:
                load(server, name, mode)
    prepare(wire, mode)


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


def restore(wire: Wire, mode: Mode) -> None:
    """Load libraries again that the store has lost. Does nothing where loading is forbidden."""
    if mode != "never":
        prepare(wire, mode)


def load(wire: Wire, name: str, mode: Mode) -> None:
    """Load one library, in place of an earlier one of that name.

    Raises:
        StoreUnsuitableError: loading is forbidden by the configuration.
    """
    if mode == "never":
        raise StoreUnsuitableError(
            f'the store lacks library {name}, and [store] library = "never" forbids loading it: set it to "auto"'
        )
    reply_to(wire, "FUNCTION", "LOAD", "REPLACE", assemble(name))


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
    """Return which version of the protocol library ``flowfabric`` says that it speaks."""
    return wire.run(Call(("FCALL", "ff_version", 0), as_bytes))


def reply_to(wire: Wire, *command: Part) -> Any:
    """Return the reply to one command as it comes.

    Raises:
        StoreError: see ``Wire.run``.
    """
    return wire.run(Call(command, lambda reply: reply))
