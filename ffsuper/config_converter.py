"""Values as TOML has them to the classes of ``config``, by cattrs and without any coercion.

What cattrs raises is a tree of errors with the place of each in its notes; here it becomes a list of mistakes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NewType, get_args, get_origin

from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError

from ffsuper.config import SECRET_KEYS, SECTIONS
from ffsuper.config_rules import bare, quoted, shown
from ffsuper.errors import Mistake, SectionError

Folder = NewType("Folder", Path)
Secret = NewType("Secret", str)
# How cattrs itself treats a mapping; our own hook for tables goes in front of it.
SECRETS: Any = Mapping[str, Secret]

BOOLEANS = {"true": True, "false": False}


def strict_converter(folder: Path) -> Converter:
    """Return what fills the classes.

    Args:
        folder: what relative paths are relative to.
    """
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)

    def array(items: Any) -> Any:
        return lambda value, _: tuple(converter.structure(exactly(list, value, "an array of strings"), items))

    def table(value: object, _: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise TypeError("must be a table of strings in the file")
        return dict(converter.structure(value, SECRETS))

    def existing_file(value: object, _: Any) -> Path:
        return readable_file(path_in(folder, value))

    converter.register_structure_hook(bool, lambda value, _: exactly(bool, value, "true or false"))
    converter.register_structure_hook(int, lambda value, _: exactly(int, value, "an integer"))
    converter.register_structure_hook(str, lambda value, _: exactly(str, value, "a string"))
    converter.register_structure_hook(Secret, lambda value, _: secret(value))
    converter.register_structure_hook(float, number)
    converter.register_structure_hook(Path, lambda value, _: path_in(folder, value))
    converter.register_structure_hook(Folder, lambda value, _: existing_folder(path_in(folder, value)))
    hooks = {
        tuple[str, ...]: array(list[str]),
        tuple[Path, ...]: array(list[Folder]),  # lists of paths are folders that must exist
        Path | None: existing_file,  # optional ones are files that must exist
        dict[str, str]: table,
    }
    converter.register_structure_hook_func(hooks.__contains__, lambda value, kind: hooks[kind](value, kind))
    converter.register_structure_hook_func(is_choice, choice)
    return converter


def exactly(kind: type[Any], value: object, wanted: str) -> Any:
    """Return the value when it is of this very type, so that true is not 1."""
    if type(value) is not kind:
        raise ValueError(f"must be {wanted}, got {shown(value)}")
    return value


def secret(value: object) -> Secret:
    """Return a string that may be a secret, and so must not be shown."""
    if not isinstance(value, str):
        raise TypeError("must be a string")
    return Secret(value)


def number(value: object, _: Any) -> float:
    """Return a float; an integer will do."""
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return float(exactly(float, value, "a number"))


def is_choice(kind: Any) -> bool:
    """Tell whether a type lists its values."""
    return get_origin(kind) is Literal


def choice(value: object, kind: Any) -> Any:
    """Return one of a few words."""
    words = get_args(kind)
    if value in words:
        return value
    wanted = ", ".join(shown(word) for word in words[:-1]) + " or " + shown(words[-1])
    near = suggestion(value, words) if isinstance(value, str) else ""
    raise ValueError(f"must be {wanted}, got {shown(value)}{near}")


def path_in(folder: Path, value: object) -> Path:
    """Return an absolute path."""
    text: str = exactly(str, value, "a path as a string")
    if not text or "\0" in text:
        raise ValueError(f"must be a path, got {shown(text)}")
    return folder / text


def existing_folder(path: Path) -> Folder:
    """Return the path when a folder is there."""
    if not is_folder(path):
        raise ValueError(f"{quoted(str(path))} cannot be read: {os.strerror(errno.ENOTDIR)}")
    return Folder(path)


def readable_file(path: Path) -> Path:
    """Return the path when something other than a folder is there that we may read."""
    if is_folder(path):
        raise ValueError(f"{quoted(str(path))} cannot be read: {os.strerror(errno.EISDIR)}")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{quoted(str(path))} cannot be read: {os.strerror(errno.EACCES)}")
    return path


def is_folder(path: Path) -> bool:
    """Tell whether a folder is there; refuse a path that leads to nothing."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise ValueError(f"{quoted(str(path))} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{quoted(str(path))} is not a path") from None


def from_text(text: str, kind: Any) -> Any:
    """Return the TOML value that an environment variable stands for; the text itself where it fits no other."""
    if get_origin(kind) is tuple:
        return [item.strip() for item in text.split(",")] if text.strip() else []
    if bool in (kind, *get_args(kind)):
        return BOOLEANS.get(text, text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def build(converter: Converter, section: str, values: Mapping[str, Any]) -> tuple[Any, list[Mistake]]:
    """Return the section's object, or None and all that is wrong with the values."""
    kind = SECTIONS[section]
    try:
        return converter.structure(values, kind), []
    except ClassValidationError as error:
        mistakes = list(mistakes_in(error, section))
    # Values of a wrong type keep cattrs from building the object, and so from checking the others' bounds.
    wrong = {mistake.key for mistake in mistakes}
    try:
        converter.structure({key: value for key, value in values.items() if key not in wrong}, kind)
    except ClassValidationError as error:
        others = mistakes_in(error, section)
        mistakes += [other for other in others if wrong.isdisjoint((other.key, *other.depends_on))]
    return None, mistakes


def mistakes_in(error: ClassValidationError, section: str) -> Iterator[Mistake]:
    """Flatten what cattrs says about one section."""
    of_attributes, of_the_whole = error.group_exceptions()
    for cause, note in of_attributes:
        for item, text in leaves(cause):
            yield Mistake(note.name, text, item)
    for whole in of_the_whole:
        if isinstance(whole, ForbiddenExtraKeysError):
            for key in sorted(whole.extra_fields):
                yield Mistake(key, f"unknown key{better_place(section, key)}")
        elif isinstance(whole, SectionError):
            yield from whole.mistakes
        else:
            raise whole


def leaves(error: BaseException, item: str = "") -> Iterator[tuple[str, str]]:
    """Yield the item and the text of each error in the value of one key."""
    if not isinstance(error, IterableValidationError):
        yield item, str(error)
        return
    for cause, note in error.group_exceptions()[0]:
        within = f"[{note.index}]" if isinstance(note.index, int) else f".{bare(note.index)}"
        yield from leaves(cause, item + within)


def keys_of(section: str) -> list[str]:
    """Return the keys that a section of the file may have. Secrets never stand in a file."""
    return [field.name for field in fields(SECTIONS[section]) if field.name != SECRET_KEYS.get(section)]


def better_place(section: str, key: str) -> str:
    """Suggest what an unknown key was meant to be."""
    places = [f"[{other}] {key}" for other in SECTIONS if key in keys_of(other)]
    if places:
        return f"; did you mean {' or '.join(places)}?"
    return suggestion(key, keys_of(section))


def suggestion(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return the end of a sentence about an unknown word: the known one that it is nearest to."""
    near = get_close_matches(word.lower(), known, n=1)
    return f"; did you mean {shown(near[0])}?" if near else ""
