"""Putting the two function libraries into the store: at the start, by order, and again when they are lost."""

from __future__ import annotations

from ffsuper.errors import LibraryMissingError, StoreAccessError, StoreScriptError, StoreUnsuitableError
from ffsuper.store.libraries import (
    FFSUPER,
    FLOWFABRIC,
    LOADED_BY_OTHERS,
    NAMES,
    NO_REMEDY,
    Mode,
    Standing,
    assemble,
    functions,
    loaded_code,
    own_mark,
    reply_to,
    require,
    require_one,
    shortcoming,
)
from ffsuper.store.wire import Wire

# What callers are to do about a library without a function.
REMEDIES_WITHOUT = {
    Standing.NEWER: "upgrade this program, or go back to the libraries of its release with ffsuper library --load",
    Standing.OLDER: "load the libraries of this release with ffsuper library --load, or start one of its workers",
}


def prepare(wire: Wire, mode: Mode) -> None:
    """Make sure that the store holds both libraries, loading what is missing or an older one of ours.

    A foreign ``flowfabric`` library of the right protocol version is left alone.

    Raises:
        StoreUnsuitableError: the server has no functions, or a library that does not do and that we may not replace.
        StoreError: the store cannot be asked.
    """
    for server in wire.servers():
        prepare_server(server, mode)


def prepare_server(wire: Wire, mode: Mode) -> None:
    """Do so on one server."""
    for name in NAMES:
        match Standing.of(loaded_code(wire, name), own_mark(name)):
            case Standing.MISSING:
                add(wire, name, mode)
            case Standing.OLDER if mode != "never":
                load(wire, name)
            case Standing.FOREIGN if mode == "replace":
                load(wire, name)
    require(wire)


def put_ours(wire: Wire, mode: Mode) -> None:
    """Do as ``prepare``, and load ours in place of newer ones of ours too: the way back from an upgrade.

    Raises:
        StoreError: see ``prepare``.
    """
    if mode != "never":
        for server in wire.servers():
            for name in NAMES:
                if Standing.of(loaded_code(server, name), own_mark(name)) is Standing.NEWER:
                    load(server, name)
    prepare(wire, mode)


def restore(wire: Wire, mode: Mode) -> None:
    """Load libraries again that the store has lost; what it holds stays. Does nothing where loading is forbidden.

    Another program has replaced a library whose functions are missing: it is newer, or an operator's way back.

    Raises:
        StoreError: see ``add``.
    """
    if mode != "never":
        for server in wire.servers():
            for name in NAMES:
                if not functions(server, name):
                    add(server, name, mode)


def restore_function(wire: Wire, mode: Mode, function: str) -> None:
    """Do as ``restore`` for somebody who has called a function that was not there.

    Raises:
        StoreUnsuitableError: a server holds the library without this function, so that calling again does not help.
        LibraryMissingError: a server still lacks the library.
        StoreError: see ``add``.
    """
    restore(wire, mode)
    name = FFSUPER if function.startswith("ffsuper_") else FLOWFABRIC
    for server in wire.servers():
        held = functions(server, name)
        if not held:
            raise LibraryMissingError(f"the store lacks library {name}, which has {function}: {LOADED_BY_OTHERS}")
        if function not in held:
            standing = Standing.of(loaded_code(server, name), own_mark(name))
            remedy = REMEDIES_WITHOUT.get(standing, NO_REMEDY)
            raise StoreUnsuitableError(f"the store holds a library {name} without {function}, called here: {remedy}")


def require_everywhere(wire: Wire, mode: Mode) -> None:
    """Make sure that all servers hold libraries that will do, loading what they have lost.

    Raises:
        StoreUnsuitableError: one of them does not. What is missing may yet come.
        StoreError: they cannot be asked.
    """
    for server in wire.servers():
        for name in NAMES:
            if not shortcoming(server, name):
                continue
            if functions(server, name):
                require_one(server, name)  # another program may have loaded it just now, and not the other one yet
            elif mode != "never":
                add(server, name, mode)


def add(wire: Wire, name: str, mode: Mode) -> None:
    """Load a library that is missing; one that somebody else has loaded meanwhile stays.

    Raises:
        StoreUnsuitableError: loading is forbidden by the configuration, or the server does not take it.
    """
    if mode == "never":
        raise StoreUnsuitableError(
            f'the store lacks library {name}, and [store] library = "never" forbids loading it: {LOADED_BY_OTHERS}, '
            'or set it to "auto"'
        )
    try:
        reply_to(wire, "FUNCTION", "LOAD", assemble(name))
    except StoreAccessError as error:
        raise StoreAccessError(f"the store lacks library {name}. {error}: {LOADED_BY_OTHERS}") from None
    except StoreScriptError as error:
        if loaded_code(wire, name) is None:
            raise StoreUnsuitableError(f"the store does not take library {name} ({error})") from None


def load(wire: Wire, name: str) -> None:
    """Load one library, in place of another of that name.

    Raises:
        StoreUnsuitableError: the server does not take it.
    """
    try:
        reply_to(wire, "FUNCTION", "LOAD", "REPLACE", assemble(name))
    except StoreAccessError as error:
        raise StoreAccessError(f"the store holds another library {name}. {error}: {LOADED_BY_OTHERS}") from None
    except StoreScriptError as error:
        raise StoreUnsuitableError(f"the store does not take library {name} ({error})") from None
