"""The header above each function says what the code says: its name, KEYS, ARGV and refusals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ffsuper.store import libraries
from tests.lua.lua_source import Function, Header, Library, Row

SOURCES = libraries.source_folder()
SHARED = sorted((SOURCES / "shared").glob("*.lua"))
LIBRARIES = {
    name: Library([*SHARED, *sorted((SOURCES / name).glob("*.lua"))])
    for name in (libraries.FLOWFABRIC, libraries.FFSUPER)
}
REGISTERED = [
    pytest.param(library, function, id=function.name)
    for library in LIBRARIES.values()
    for function in library.functions
    if function.is_registered
]
KEY_TYPES = {"hash", "set", "stream", "string", "zset"}


def differences(library: Library, function: Function) -> list[str]:
    """Return in what a function and its header differ, one line each."""
    header = Header.of(function.comment)
    keys, args = (*function.params, "", "")[:2]
    used_keys = library.positions(function, keys) if keys else set()
    used_args = library.positions(function, args) if args else set()
    found = heading_faults(header, function)
    found += list_faults("KEYS", header.keys, used_keys) + key_faults(header.keys, used_keys)
    found += list_faults("ARGV", header.args, used_args)
    refused, unknown = library.refusals(function)
    found += [f"refuses '{code}', which is not listed" for code in sorted(refused - header.refusals)]
    found += [f"lists '{code}', which it cannot refuse with" for code in sorted(header.refusals - refused)]
    found += [f"{name} refuses with a code that no text shows" for name in unknown]
    return found


def heading_faults(header: Header, function: Function) -> list[str]:
    """Return what is wrong with the name, the sentence and the replies."""
    found = []
    if header.name != function.name:
        found.append(f"is described as '{header.name}'")
    if not re.fullmatch(r"[a-z].*[^.]\.", header.sentence):
        found.append(f"has no sentence that begins in lower case and ends with a period: '{header.sentence}'")
    if not header.replies:
        found.append("lists no replies")
    return found


def key_faults(rows: tuple[Row, ...], used: set[int]) -> list[str]:
    """Return which keys lack a type, and where the code does not agree with what the rows call unused."""
    found = [f"key {row.name} has no type, of {sorted(KEY_TYPES)}" for row in rows if not has_type(row)]
    unused = set[int]()  # "not touched", or "not touched, like 7 and 8"
    for position, row in enumerate(rows, start=1):
        if re.match(r"\w+\s+not (touched|used|read|looked at)\b", row.meaning):
            unused |= {position, *map(int, re.findall(r"\d+", row.meaning))}
    names = {position: row.name for position, row in enumerate(rows, start=1)}
    contradicted = sorted(unused & used & names.keys())
    found += [f"uses key {names[position]}, which says that it does not" for position in contradicted]
    lists = {position for position, row in enumerate(rows, start=1) if is_list(row)}  # used by computed positions
    silent = sorted(names.keys() - used - unused - lists)
    return found + [f"does not use key {names[position]}: say 'not touched'" for position in silent]


def is_list(row: Row) -> bool:
    """Tell whether a row stands for a list: of N elements, or of all from its position on."""
    return re.match(rf"((?:{'|'.join(KEY_TYPES)}) +)?N ", row.meaning) is not None or row.position.endswith("..")


def has_type(row: Row) -> bool:
    """Tell whether a key's row names its type."""
    return row.meaning.partition(" ")[0] in KEY_TYPES


def list_faults(label: str, rows: tuple[Row, ...], used: set[int]) -> list[str]:
    """Return gaps in a list of positions, and what the code uses beyond it."""
    found = []
    for length in (1, 2, 5):  # of the lists of N elements
        listed, expected = 0, 1
        for row in rows:
            if first_position(row, length) != expected:
                return [f"{label} {row.position} {row.name} should be the {expected}. with N = {length}"]
            listed = expected + (length if is_list(row) else 1) - 1
            expected = listed + 1
        is_open = bool(rows) and rows[-1].position.endswith("..")
        beyond = [] if is_open else sorted(position for position in used if position > listed)
        found = [f"uses {label} {position}, which is not listed" for position in beyond]
    names = [row.name for row in rows]
    return found + [
        f"{label} lists {name} twice" for name in sorted({name for name in names if names.count(name) > 1})
    ]


def first_position(row: Row, length: int) -> int:
    """Return the position of a row's first element, when lists of N have this length; 0 when it has none."""
    found = re.fullmatch(r"(\d+)(?:\+(\d*)N)?(?:\.\.)?", row.position)
    if not found:
        return 0
    lists = 0 if found[2] is None else int(found[2] or 1)
    return int(found[1]) + lists * length


@pytest.mark.parametrize(("library", "function"), REGISTERED)
def test_the_header_says_what_the_code_says(library: Library, function: Function) -> None:
    found = differences(library, function)
    assert not found, "\n".join(f"{function.file}: {function.name} {line}" for line in found)


def test_every_function_that_is_registered_anywhere_has_been_looked_at() -> None:
    texts = [path.read_text(encoding="utf-8") for path in SOURCES.rglob("*.lua")]
    calls = sum(len(re.findall(r"^(?:redis\.register_function|register)\(", text, re.MULTILINE)) for text in texts)
    looked_at = {function.name for library in LIBRARIES.values() for function in library.functions}
    named = {name for text in texts for name in re.findall(r"register(?:_function)?\('(\w+)'", text)}
    assert named <= looked_at
    assert len(REGISTERED) == len(named) == calls


@pytest.mark.parametrize("name", LIBRARIES)
def test_no_two_helpers_of_a_library_share_a_name(name: str) -> None:
    names = [function.name for function in LIBRARIES[name].functions]
    assert sorted({one for one in names if names.count(one) > 1}) == []


# --- the comparison itself ----------------------------------------------------------------------------------------

HELPERS = """
local function check(value)
  if not value then
    refuse('invalid_input', 'no value, refuse(' .. 'x')
  end
end

-- Returns nil, or the code to refuse with.
local function fault_of(text)
  return text == '' and 'missing_token' or 'invalid_token'
end

local function inner(things)
  return things[4] -- not things[9], nor refuse('comment')
end

local function outer(first, given)
  check(first)
  return inner(given)
end
"""
HEADER = """
-- ff_example: do something, well.
-- KEYS  1 core   hash    the record
--       2 index  zset    execution id ->
--                        time
-- ARGV  1 execution_id
--       2 count         N
--       3 names         N texts
--     3+N values        N numbers
--    3+2N last
-- Replies  ok()
-- Refuses  invalid_input  invalid_token
--          missing_token (when empty)
"""
BODY = """register('ff_example', function(keys, args)
  local function nested(reason)
    redis.call('DEL', keys[2])
  end
  local fault = fault_of(args[1])
  if fault then
    refuse(fault)
  end
  nested('x')
  return outer(keys[1], args)
end)
"""


def compare(folder: Path, header: str = HEADER, body: str = BODY, helpers: str = HELPERS) -> list[str]:
    """Compare a library made of these texts."""
    path = folder / "example.lua"
    path.write_text(helpers + header + body, encoding="utf-8")
    library = Library([path])
    (function,) = (function for function in library.functions if function.is_registered)
    return differences(library, function)


def test_a_header_that_agrees_with_the_code_has_no_differences(tmp_path: Path) -> None:
    assert compare(tmp_path) == []


def test_an_open_list_covers_all_positions_from_its_first_on(tmp_path: Path) -> None:
    header = re.sub(r"--       2 count(.*\n)+?(?=-- Replies)", "--       2.. names\n", HEADER)
    assert "2.. names" in header
    assert compare(tmp_path, header) == []


def test_a_list_of_keys_is_used_by_computed_positions(tmp_path: Path) -> None:
    header = HEADER.replace("-- ARGV", "--       3 parts  hash    N of them\n-- ARGV", 1)
    assert compare(tmp_path, header) == []


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("-- ff_example:", "-- ff_exmaple:", "is described as 'ff_exmaple'"),
        ("well.", "well", "has no sentence that begins in lower case and ends with a period: 'do something, well'"),
        ("-- Replies  ok()\n", "", "lists no replies"),
        ("hash    the", "hash    not touched; the", "uses key core, which says that it does not"),
        ("core   hash", "core   hush", "key core has no type, of ['hash', 'set', 'stream', 'string', 'zset']"),
        ("--       2 index", "--       3 index", "KEYS 3 index should be the 2. with N = 1"),
        ("2 index", "2 core ", "KEYS lists core twice"),
        ("--     3+N values        N", "--     3+N values        some", "ARGV 3+2N last should be the 6. with N = 2"),
        ("--     3+N", "--       4", "ARGV 4 values should be the 5. with N = 2"),
        ("--       3 names         N texts", "-- 3 names", "ARGV 3+N values should be the 3. with N = 1"),
        ("  invalid_token\n", "\n", "refuses 'invalid_token', which is not listed"),
        ("missing_token (when empty)", "", "refuses 'missing_token', which is not listed"),
        ("missing_token (", "missing_token  stale_lease (", "lists 'stale_lease', which it cannot refuse with"),
    ],
)
def test_each_difference_of_a_header_is_named(tmp_path: Path, old: str, new: str, difference: str) -> None:
    assert old in HEADER
    assert difference in compare(tmp_path, HEADER.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("keys[2]", "keys[3]", "uses KEYS 3, which is not listed"),
        ("keys[2]", "keys[1]", "does not use key index: say 'not touched'"),
        ("nested('x')", "refuse('stale_lease')", "refuses 'stale_lease', which is not listed"),
        ("nested('x')", "refuse(x and 'lease_expired' or 'x1')", "refuses 'lease_expired', which is not listed"),
        ("fault_of(args[1])", "args[1]", "ff_example refuses with a code that no text shows"),
        ("outer(keys[1], args)", "inner(args)", "lists 'invalid_input', which it cannot refuse with"),
    ],
)
def test_each_difference_of_the_code_is_named(tmp_path: Path, old: str, new: str, difference: str) -> None:
    assert old in BODY
    assert difference in compare(tmp_path, body=BODY.replace(old, new))


def test_what_a_helper_uses_of_the_arguments_counts(tmp_path: Path) -> None:
    header = re.sub(r"--       3 names(.*\n)+?(?=-- Replies)", "", HEADER).replace("N\n", "\n")
    assert compare(tmp_path, header) == ["uses ARGV 4, which is not listed"]
