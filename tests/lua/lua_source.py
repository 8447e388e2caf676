"""The Lua sources as text: functions, what they are called with and what they refuse, and the headers above them.

No parser of Lua: it relies on the layout that the sources have. A top-level function begins at the start of a line
and ends with an ``end`` there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTION = re.compile(
    r"^(?:local function (?P<local>\w+)|(?:redis\.register_function|register)\('(?P<registered>\w+)', function)"
    r"\((?P<params>[^)]*)\)\n(?P<body>.*?)^end",
    re.MULTILINE | re.DOTALL,
)
TOKEN = re.compile(r"(?P<comment>--[^\n]*)|(?P<string>'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\")")
CODE = re.compile(r"'([a-z][a-z_]*:?)'")
# Says of a function that it returns codes for its caller to refuse with.
RETURNS_CODE = "the code to refuse with"


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a library.

    Attributes:
        comment: the comment lines right above it.
        body: without comments.
        is_registered: callable by clients; otherwise a helper.
    """

    file: str
    name: str
    comment: tuple[str, ...]
    params: tuple[str, ...]
    body: str
    is_registered: bool


def functions_of(path: Path) -> Iterator[Function]:
    """Yield the top-level functions of one file, in order."""
    text = path.read_text(encoding="utf-8")
    for found in FUNCTION.finditer(text):
        above = text[: found.start()].splitlines()
        first = len(above)
        while first and above[first - 1].startswith("--"):
            first -= 1
        yield Function(
            file=f"{path.parent.name}/{path.name}",
            name=found["local"] or found["registered"],
            comment=tuple(above[first:]),
            params=tuple(param.strip() for param in found["params"].split(",") if param.strip()),
            body=TOKEN.sub(lambda token: token["string"] or "", found["body"]),
            is_registered=found["registered"] is not None,
        )


class Library:
    """The functions of one library, as the server gets them: the shared files, then its own."""

    def __init__(self, files: list[Path]) -> None:
        self.functions = [function for path in files for function in functions_of(path)]
        self.helpers = {function.name: function for function in self.functions if not function.is_registered}

    def calls(self, function: Function) -> Iterator[tuple[Function, list[str]]]:
        """Yield the helpers that a function calls, with the arguments of each call."""
        blank = without_texts(function.body)
        for found in re.finditer(r"(?<![.:\w])(\w+)\(", blank):
            helper = self.helpers.get(found[1])
            is_own = re.search(rf"\blocal function {found[1]}\b", blank)
            if helper and not is_own:
                yield helper, arguments(function.body, found.end())

    def reachable(self, function: Function) -> list[Function]:
        """Return the function, and all helpers that it calls, directly or not."""
        found = [function]
        for caller in found:
            found += [helper for helper, _ in self.calls(caller) if helper not in found]
        return list(dict.fromkeys(found))

    def positions(self, function: Function, param: str) -> set[int]:
        """Return which elements of a parameter are used by number, here or in helpers that get it whole."""
        used = {int(position) for position in re.findall(rf"(?<![.\w]){param}\[(\d+)\]", function.body)}
        for helper, passed in self.calls(function):
            # A helper that calls itself ends the program, not this search: none does.
            for name, argument in zip(helper.params, passed, strict=False):
                if argument == param and name != "...":
                    used |= self.positions(helper, name)
        return used

    def refusals(self, function: Function) -> tuple[set[str], list[str]]:
        """Return the codes that a call can be refused with, and the helpers that refuse with unknown ones."""
        codes, unknown = set[str](), []
        for caller in self.reachable(function):
            for found in re.finditer(r"(?<![.:\w])refuse\(", without_texts(caller.body)):
                literals = CODE.findall(arguments(caller.body, found.end())[0])
                if not literals:
                    literals = self.returned_codes(caller)
                    unknown += [] if literals else [caller.name]
                codes |= set(literals)
        return codes, unknown

    def returned_codes(self, function: Function) -> list[str]:
        """Return the codes that the helpers it calls return, of those whose comments say that they return such."""
        helpers = [helper for helper in self.reachable(function) if RETURNS_CODE in " ".join(helper.comment)]
        returned = [line for helper in helpers for line in re.findall(r"\breturn\b[^\n]*", helper.body)]
        return [code for line in returned for code in CODE.findall(line)]


def without_texts(code: str) -> str:
    """Return the code with a blank in place of each character of its strings."""
    return TOKEN.sub(lambda token: " " * len(token[0]), code)


def arguments(text: str, start: int) -> list[str]:
    """Return the arguments of the call whose opening bracket ends at ``start``."""
    blank = without_texts(text)
    found, depth, begin = [], 1, start
    for position in range(start, len(text)):
        depth += (blank[position] in "([{") - (blank[position] in ")]}")
        if depth == 0 or (depth == 1 and blank[position] == ","):
            found.append(text[begin:position].strip())
            begin = position + 1
        if depth == 0:
            break
    return found


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a header's KEYS or ARGV.

    Attributes:
        position: ``3``; ``3+2N`` behind lists of N elements; ``3..`` for all from the third on.
        name: of the key or argument, or of each element.
        meaning: type and meaning; a list of N elements begins it with ``N``.
    """

    position: str
    name: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Header:
    """What the comment above a registered function says.

    Attributes:
        name: of the function.
        sentence: what it does.
    """

    name: str
    sentence: str
    keys: tuple[Row, ...]
    args: tuple[Row, ...]
    replies: str
    refusals: frozenset[str]

    @classmethod
    def of(cls, comment: tuple[str, ...]) -> Header:
        """Read a header."""
        sections: dict[str, list[str]] = {"": []}
        for line in comment:
            label = re.match(r"-- (KEYS|ARGV|Replies|Refuses)  ", line)
            current = label[1] if label else [*sections][-1]
            sections.setdefault(current, []).append(line)
        first = " ".join(line.removeprefix("--").strip() for line in sections.pop(""))
        name, _, sentence = first.partition(": ")
        refusals = re.sub(r"\([^)]*\)", "", joined(sections.get("Refuses", [])))
        return cls(
            name,
            sentence,
            rows(sections.get("KEYS", [])),
            rows(sections.get("ARGV", [])),
            joined(sections.get("Replies", [])),
            frozenset(re.sub(r":.*", ":", code) for code in refusals.split()),
        )


def joined(lines: list[str]) -> str:
    """Return the text of a section without its label."""
    return " ".join(re.sub(r"^-- *(Replies|Refuses)?", "", line).strip() for line in lines)


def rows(lines: list[str]) -> tuple[Row, ...]:
    """Read the rows of a section: a position that ends in the tenth column, then a name; anything else goes on."""
    found: list[Row] = []
    for line in lines:
        start = re.match(r"-- (?:KEYS|ARGV|    )(?=.{3})|--(?= )", line)
        position = line[start.end() : 10].strip() if start else ""
        rest = re.fullmatch(r"(?P<more>\.\.)? (?P<name>[a-z]\w*)(?P<meaning>(?:  ?.*)?)", line[10:])
        if rest and re.fullmatch(r"\d+(\+\d*N)?", position):
            found.append(Row(position + (rest["more"] or ""), rest["name"], rest["meaning"].strip()))
        elif found:
            found[-1] = Row(found[-1].position, found[-1].name, f"{found[-1].meaning} {line[2:].strip()}")
        else:
            found.append(Row("?", line, ""))
    return tuple(found)
