"""Tab completion, by argcomplete: the shell runs ffsuper itself, which says what may follow."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from argcomplete.completers import SuppressCompleter
from argcomplete.finders import CompletionFinder
from argcomplete.shell_integration import shellcode

from ffsuper.commands.parsing import arguments_of, subcommands_of


def write_script(options: argparse.Namespace) -> bool:
    """Print what a shell reads to complete ffsuper."""
    # Bash shall not offer files where we have nothing to offer.
    print(shellcode(["ffsuper"], shell=options.shell, complete_arguments=["-o", "nospace"]).strip())
    return True


def complete(root: argparse.ArgumentParser) -> None:
    """Tell the shell that asks what may follow; end the program."""
    for parser in (root, *subcommands_of(root).values()):
        for action in arguments_of(parser):
            if action.metavar in COMPLETERS:
                vars(action)["completer"] = COMPLETERS[str(action.metavar)]
    CompletionFinder()(root, always_complete_options="long", default_completer=SuppressCompleter())


def files(prefix: str, **_: object) -> list[str]:
    """Return the files and folders that begin so; folders end in a slash."""
    folder, begun = os.path.split(prefix)
    try:
        with os.scandir(Path(folder).expanduser()) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if entry.name.startswith(begun)]
    except OSError:
        return []
    shown = [(name, is_dir) for name, is_dir in found if begun or not name.startswith(".")]
    return sorted(os.path.join(folder, name) + ("/" if is_dir else "") for name, is_dir in shown)  # noqa: PTH118 -- as typed


def modules(prefix: str, **_: object) -> list[str]:
    """Return the Python files that begin so, and the folders on the way to others."""
    return [name for name in files(prefix) if name.endswith((".py", "/"))]


def folders(prefix: str, **_: object) -> list[str]:
    """Return the folders that begin so."""
    return [name for name in files(prefix) if name.endswith("/")]


# By metavar.
COMPLETERS = {"FILE": files, "HANDLERS": modules, "DIR": folders}
