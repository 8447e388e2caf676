"""argparse with suggestions: what a mistyped subcommand, option or choice may have meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

Commands = argparse._SubParsersAction  # argparse has no public name for it


class Parser(argparse.ArgumentParser):
    """A parser whose descriptions stay as they are written, and that suggests the nearest choice."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **settings})

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of an argument's choices. argparse has no public place for this before Python 3.14."""
        if action.choices is None or value in action.choices:
            return
        near = suggestion(value, action.choices)
        if isinstance(action, Commands):
            near = f"; did you mean --config {value}?" if value.endswith(".toml") else near
            raise argparse.ArgumentError(None, f"no subcommand {value!r}{near or f'; see {self.prog} --help'}")
        raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(action.choices)}{near}")


def suggestion(value: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names what ``value`` resembles; empty when it resembles nothing."""
    from difflib import get_close_matches

    near = get_close_matches(value, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the options and arguments of a parser, without those that help hides."""
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return what the options of a parser are called."""
    return [name for action in arguments_of(parser) for name in action.option_strings]


def subcommands_of(root: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the subcommands by name."""
    return {
        name: parser
        for action in root._actions
        if isinstance(action, Commands)
        for name, parser in action.choices.items()
    }


def complaint(strange: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Say what is wrong with arguments that a parser does not know."""
    options = options_of(parser)
    for argument in strange:
        name = argument.partition("=")[0]
        if name in options:
            return f"{name} goes behind the subcommand, as in: {parser.prog} {name}"
        if name.startswith("-"):
            return f"no option {name}{suggestion(name, options) or f'; see {parser.prog} --help'}"
    return f"unexpected {strange[0]!r}; see {parser.prog} --help"
