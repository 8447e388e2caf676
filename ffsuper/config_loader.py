"""worker.toml and the environment to a ``Config``, or to all that is wrong with them at once.

A value is known by its place, as in ``[lease] ttl_ms``. Its origin is the file, a variable, a credential, or nothing:
then it is the default.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from ffsuper.config import SECRET_KEYS, SECTIONS, Config, StoreConfig
from ffsuper.config_converter import better_place, build, from_text, keys_of, strict_converter, suggestion
from ffsuper.config_rules import bare, quoted, shown, token_mistakes
from ffsuper.errors import ConfigError, Mistake

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"

DEFAULT = "default"
MASK = "********"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be run.

    Attributes:
        config: every value resolved, with nothing left to look up.
        origins: place to the file, variable or credential that the value is from; defaults are absent.
    """

    config: Config
    origins: Mapping[str, str]


class Reading:
    """What has been read so far: each section's values, the origin of each, and all that is wrong.

    Attributes:
        file: the name of worker.toml in messages.
        values: section to key to value, as TOML has it.
        origins: see ``Loaded``.
        problems: see ``ConfigError``.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []

    def take_document(self, document: Mapping[str, Any]) -> None:
        """Take over what the file says."""
        for name, content in document.items():
            if name in SECTIONS and isinstance(content, dict):
                self.values[name] = dict(content)
                self.origins.update({place(name, key): self.file for key in content})
            elif name in SECTIONS:
                self.problems.append(f"{self.file}: [{name}]: must be a table, got {shown(content)}")
            elif isinstance(content, dict):
                near = suggestion(name, tuple(SECTIONS))
                self.problems.append(f"{self.file}: [{bare(name)}]: unknown section{near}")
            else:
                near = better_place("worker", name)
                self.problems.append(f"{self.file}: {bare(name)}: unknown key outside of any section{near}")
        for section, key in SECRET_KEYS.items():
            if self.values[section].pop(key, None) is not None:
                text = f"must not be in the file: put the {key} into a file of its own and name that in {key}_file"
                self.note(section, [Mistake(key, text)])

    def take_variables(self, environ: Mapping[str, str]) -> None:
        """Let the environment override the file."""
        known = {variable(section, key): (section, key) for section in SECTIONS for key in keys_of(section)}
        secrets = {variable(section, key): (section, key) for section, key in SECRET_KEYS.items()}
        beginnings = tuple(variable(section, "") for section in SECTIONS)
        for name, text in sorted(environ.items()):
            if name in known:
                section, key = known[name]
                self.values[section][key] = from_text(text, get_type_hints(SECTIONS[section])[key])
                self.origins[place(section, key)] = name
            elif name in secrets:
                self.problems.append(in_environment(*secrets[name]))
            elif name.startswith(beginnings):
                near = get_close_matches(name, known, n=1)
                meant = f"; did you mean {near[0]}?" if near else ""
                self.problems.append(f"{bare(name)}: unknown variable{meant}")

    def note(self, section: str, mistakes: Sequence[Mistake]) -> None:
        """Put mistakes into sentences that begin where the value came from."""
        for mistake in mistakes:
            self.problems.append(f"{self.where(section, mistake.key)}{mistake.item}: {mistake.text}")

    def where(self, section: str, key: str) -> str:
        """Return where the value is to be mended: a variable, or a place in the file."""
        at = place(section, key)
        origin = self.origins.get(at, self.file)
        return f"{self.file}: {at}" if origin == self.file else origin


def load(path: Path, environ: Mapping[str, str], *, needs_handlers: bool = True) -> Loaded:
    """Read worker.toml and the environment's overrides.

    Args:
        needs_handlers: whether handlers must be named.

    Raises:
        ConfigError: with everything that is wrong.
    """
    reading = Reading(str(path))
    reading.take_document(read_document(path))
    reading.take_variables(environ)
    return built(reading, path.parent.absolute(), environ, needs_handlers)


def load_store(path: Path | None, environ: Mapping[str, str], url: str | None) -> StoreConfig:
    """Read section ``[store]`` for who runs nothing.

    Args:
        path: worker.toml; None for the environment alone.
        url: what option ``--store`` says, in place of all others.

    Raises:
        ConfigError: with everything that is wrong.
    """
    reading = Reading(str(path))
    if path is not None:
        reading.take_document(read_document(path))
        reading.take_variables(environ)
    else:
        own = variable("store", "")
        reading.take_variables({name: text for name, text in environ.items() if name.startswith(own)})
    if url is not None:
        reading.values["store"]["url"] = url
        reading.origins[place("store", "url")] = "--store"
    folder = Path.cwd() if path is None else path.parent.absolute()
    return built(reading, folder, environ, needs_handlers=False).config.store


def built(reading: Reading, folder: Path, environ: Mapping[str, str], needs_handlers: bool) -> Loaded:
    """Return what was read as a configuration.

    Args:
        folder: what relative paths are relative to.

    Raises:
        ConfigError: with everything that is wrong.
    """
    converter = strict_converter(folder)
    sections: dict[str, Any] = {}
    reading.note("worker", missing_in_worker(reading.values["worker"], needs_handlers))
    for section in SECTIONS:
        sections[section], mistakes = build(converter, section, reading.values[section])
        reading.note(section, mistakes)
    for section, key in SECRET_KEYS.items():
        if sections[section] is not None:
            secret = read_secret(section, key, getattr(sections[section], f"{key}_file"), environ, reading)
            sections[section] = replace(sections[section], **{key: secret})
    if reading.problems:
        raise ConfigError(reading.problems)
    return Loaded(resolved(Config(**sections), folder), reading.origins)


def read_document(path: Path) -> dict[str, Any]:
    """Parse the file.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: cannot be read: {getattr(error, 'strerror', error)}"]) from None
    try:
        text = content.decode()
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}: is not UTF-8 text at line {line}"]) from None
    except tomllib.TOMLDecodeError as error:
        end = f"at line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}, the end of the file"
        raise ConfigError([f"{path}: {str(error).replace('at end of document', end)}"]) from None
    except ValueError:
        raise ConfigError([f"{path}: a number in it has too many digits"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: arrays or tables in it are nested too deeply"]) from None


def missing_in_worker(values: Mapping[str, Any], needs_handlers: bool) -> list[Mistake]:
    """Return what must be given, since its default is only a place to put it."""
    mistakes = []
    if needs_handlers and values.get("handlers", []) == []:
        mistakes.append(Mistake("handlers", 'must name at least one module with handlers, as in ["app.handlers"]'))
    if values.get("instance_id") == "":
        mistakes.append(Mistake("instance_id", "must not be empty; leave it out for <id>@<host name>"))
    return mistakes


def read_secret(section: str, key: str, file: Path | None, environ: Mapping[str, str], reading: Reading) -> str:
    """Return a secret from its file, or else from its credential; empty when there is neither."""
    credential = credential_file(f"{section}_{key}", environ)
    if file is not None:
        origin = reading.where(section, f"{key}_file")
        secret = first_line(file, origin, reading.problems)
    elif credential is not None:
        origin = f"credential {credential.name}"
        secret = first_line(credential, origin, reading.problems)
    else:
        return ""
    if secret:
        reading.origins[place(section, key)] = origin
    if secret and key == "token":
        reading.problems += [f"{origin}: {text}" for text in token_mistakes(secret)]
    return secret


def credential_file(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file of a credential: the instance's own, else the one that all instances of a unit share."""
    for candidate in (name, f"shared_{name}"):
        file = Path(environ.get(CREDENTIALS_VARIABLE, ""), candidate)
        if file.is_absolute() and os.path.lexists(file):
            return file
    return None


def first_line(file: Path, origin: str, problems: list[str]) -> str:
    """Return the first line of a file with a secret, or add to the problems."""
    try:
        line = file.read_text("utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        problems.append(f"{origin}: {quoted(str(file))} cannot be read: {why}")
        return ""
    if not line:
        problems.append(f"{origin}: the first line of {quoted(str(file))} is empty")
    return line


def resolved(config: Config, folder: Path) -> Config:
    """Return the configuration with what only this machine can tell, and in its final form."""
    worker, store, children, engine = config.worker, config.store, config.children, config.engine
    embedded = store.url == "embedded"
    return replace(
        config,
        worker=replace(
            worker,
            instance_id=worker.instance_id or f"{worker.id}@{socket.gethostname()}",
            capabilities=tuple(sorted(set(worker.capabilities), key=str.encode)),
        ),
        store=replace(store, data_dir=folder / store.data_dir),
        children=replace(children, count=children.count or len(os.sched_getaffinity(0))),
        engine=replace(engine, enabled=embedded if engine.enabled is None else engine.enabled),
    )


def describe(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return every setting as ``(place, value, origin)``, as TOML would have it, secrets masked."""
    rows = []
    for section in SECTIONS:
        settings = getattr(loaded.config, section)
        for field in fields(settings):
            where = place(section, field.name)
            value = getattr(settings, field.name)
            if SECRET_KEYS.get(section) == field.name:
                value = value and MASK
            elif (section, field.name) == ("children", "environment"):
                value = dict.fromkeys(value, MASK)
            rows.append((where, toml_text(value), loaded.origins.get(where, DEFAULT)))
    return rows


def toml_text(value: Any) -> str:
    """Return a resolved value as TOML writes it; an absent one as an empty string."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case tuple():
            return f"[{', '.join(toml_text(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{bare(key)} = {toml_text(item)}' for key, item in value.items())}}}"
    return quoted("" if value is None else str(value))


def place(section: str, key: str) -> str:
    """Return how a setting is called in messages."""
    return f"[{section}] {bare(key)}"


def in_environment(section: str, key: str) -> str:
    """Say where a secret belongs that is in the environment."""
    name = variable(section, key)
    told = f"put the {key} into a file and name that in {name}_FILE"
    return f"{name}: must not be in the environment, where others can read it: {told}"


def variable(section: str, key: str) -> str:
    """Return the environment variable that overrides a setting."""
    return f"FFSUPER_{section}_{key}".upper()
