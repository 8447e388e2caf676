from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffsuper.config import SECTIONS
from ffsuper.config_loader import describe, load, variable
from ffsuper.errors import ConfigError

KEYS = {name: sorted(section.__dataclass_fields__) for name, section in SECTIONS.items()}
LIKELY = (
    "embedded",
    "redis://x",
    "rediss://u:p@[::1]:0",
    "unix:///x",
    "true",
    "4",
    "1e9",
    "a,b",
    ".",
    "fail",
    "json",
)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(LIKELY)
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(0, 9999) | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
KNOWN_SECTIONS = st.fixed_dictionaries(
    {}, optional={name: st.dictionaries(st.sampled_from(keys), VALUES, max_size=2) for name, keys in KEYS.items()}
)
DOCUMENTS = KNOWN_SECTIONS | st.dictionaries(
    st.sampled_from(list(SECTIONS)) | TEXTS, VALUES | st.dictionaries(TEXTS, VALUES, max_size=6), max_size=6
)
VARIABLES = st.sampled_from([variable(name, key) for name, keys in KEYS.items() for key in keys])
ENVIRONMENTS = st.dictionaries(
    VARIABLES | VARIABLES.map(lambda name: name[:-1]) | st.just("CREDENTIALS_DIRECTORY") | TEXTS, TEXTS, max_size=3
)


def toml(value: object) -> str:
    """Write a value as TOML, on one line."""
    match value:
        case None:
            return "2024-01-01"
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not "\ud800" <= c <= "\udfff") + '"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return repr(value)


def outcome(file: Path, environ: Mapping[str, str]) -> list[str]:
    """Load; return what people are shown."""
    try:
        result = load(file, environ)
    except ConfigError as error:
        return error.problems
    return [cell for row in describe(result) for cell in row[:2]]


def assert_presentable(told: list[str]) -> None:
    assert told
    assert all("\n" not in text and text.encode() for text in told)


@settings(deadline=None)
@given(document=DOCUMENTS, environ=ENVIRONMENTS)
def test_any_document_and_environment_give_a_config_or_its_mistakes(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object], environ: dict[str, str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text("\n".join(f"{toml(name)} = {toml(content)}" for name, content in document.items()))
    assert_presentable(outcome(file, {"FFSUPER_WORKER_HANDLERS": "app", **environ}))


@settings(deadline=None)
@given(content=st.binary(max_size=60), environ=ENVIRONMENTS)
def test_any_bytes_give_a_config_or_its_mistakes(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, environ: dict[str, str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.toml"
    file.write_bytes(content)
    assert_presentable(outcome(file, environ))
