"""Whatever stands in worker.toml, the environment and secret files: a configuration, or mistakes with their places.

``tests/test_config_fuzz.py`` mixes many mistakes; here it is mostly one, so that it is known what must be told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.config import SECRET_KEYS, SECTIONS
from ffsuper.config_loader import CREDENTIALS_VARIABLE, describe, load, load_store, variable
from ffsuper.errors import ConfigError
from tests.fuzz.examples import fuzz
from tests.fuzz.values import TEXTS, damaged
from tests.test_config_fuzz import toml

LONGEST = 700
CONFIGS = Path(__file__).parent.parent.parent / "config"
DOCUMENTS = sorted(path.read_bytes() for path in CONFIGS.glob("*.toml"))
PLACES = [(section, key) for section, kind in SECTIONS.items() for key in kind.__dataclass_fields__]
SECRETS = [(section, key) for section, key in SECRET_KEYS.items()]
LEAST = 'worker.handlers = ["app"]\n'
# As they stand in a file: numbers in all of TOML's forms, and what there is beside them.
LITERALS = st.sampled_from(
    (
        *("0x7fffffffffffffffffff", "0b1", "0o7", "1_000", "-0", "+1", "1e3", "-1e400", "inf", "-inf", "nan", "6.0"),
        *("1979-05-27", "07:32:00", "1979-05-27T07:32:00.999999-07:00", "1979-05-27 07:32:00", "9" * 4_000),
        *("true", "false", '""', "''", '"""\n"""', "'''\n\n'''", '"\\u0000"', '"\\U0010ffff"', "[]", "{}", "[[[]]]"),
        *('[""]', "[1, 'a']", "{ a = 1 }", "[{}]", "[[1], [true]]", "{ a = { b = [] } }", '["a", "a"]', '["\\n"]'),
        *('"embedded"', '"redis://u:hush@x"', '"auto"', '"x:1"', '"."', '"/dev/null"', '"/"', '"a\\u0000b"', '"*"'),
    )
)
SHORT = TEXTS.map(lambda text: text[:100])
VALUES = LITERALS | st.recursive(
    st.booleans() | st.integers() | st.floats() | SHORT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3),
    max_leaves=5,
).map(toml)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


def told(file: Path, environ: Mapping[str, str]) -> list[str]:
    """Load; return the mistakes, or nothing when it can be run and shown."""
    try:
        result = load(file, environ)
    except ConfigError as error:
        problems = error.problems
    else:
        assert all(f"{where}{value}{origin}".isprintable() for where, value, origin in describe(result))
        return []
    assert problems
    for problem in problems:
        assert_presentable(problem, file)
    return problems


def assert_presentable(problem: str, file: Path) -> None:
    """Check that a mistake is told on one line, which begins with its place."""
    assert problem.isprintable()
    assert len(problem) < LONGEST or "cannot be read" in problem, "only paths are told in full"
    beginning, colon, text = problem.partition(": ")
    assert colon
    assert text
    if beginning != str(file):
        assert beginning.startswith(("FFSUPER_", '"FFSUPER_', "credential ")), problem
    elif not text.startswith("["):
        whole = (
            "is not UTF-8 text at line ",
            "a number in it has too many digits",
            "arrays or tables in it are nested",
        )
        assert text.startswith(whole) or re.search(r"line \d+, column \d+|: unknown key outside", text), problem


@fuzz(200)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_one_value_that_is_wrong_is_told_with_its_place(folder: Path, place: tuple[str, str], value: str) -> None:
    section, key = place
    file = folder / "one.toml"
    rest = LEAST if place != ("worker", "handlers") else ""
    file.write_text(f"{rest}{section}.{key} = {value}\n", encoding="utf-8")
    for problem in told(file, {}):
        if "(at line " in problem:
            continue  # one table names a key twice
        assert problem.startswith(f"{file}: [{section}] "), "nothing is wrong elsewhere"
        assert key in problem


@fuzz(150)
@given(place=st.sampled_from(PLACES), text=TEXTS | LITERALS | st.text("0123456789.,:/[]-e @#?", max_size=12))
@example(place=("status", "listen"), text="a..b:80")
@example(place=("server", "listen"), text=f"{'a' * 64}:80")
@example(place=("server", "listen"), text="\ud800:80")
@example(place=("server", "cors_origins"), text="https://" + "x" * 5_000 + "/")
@example(place=("server", "listen"), text="x" * 5_000)
def test_one_variable_that_is_wrong_is_told_by_its_name(folder: Path, place: tuple[str, str], text: str) -> None:
    file = folder / "variable.toml"
    file.write_text(LEAST)
    name = variable(*place)
    for problem in told(file, {name: text}):
        named = problem.startswith((f"{name}: ", f"{name}["))
        assert named or (problem.startswith(f"{file}: [{place[0]}] ") and place[1] in problem)


@fuzz(100)
@given(data=st.data(), document=st.sampled_from(DOCUMENTS))
def test_a_damaged_file_is_a_configuration_or_its_mistakes(
    folder: Path, data: st.DataObject, document: bytes
) -> None:
    file = folder / "damaged.toml"
    file.write_bytes(data.draw(damaged(document)))
    told(file, {})


@fuzz(100)
@given(
    keys=st.lists(st.sampled_from((*SECTIONS, "handlers", "'a.b'", '""', '"\\n"', "é", "1")), min_size=1, max_size=4),
    form=st.sampled_from(
        ("{} = 1", "[{}]", "[[{}]]", "{} = 1\n{} = 1", "[{}]\n[{}]", "{}.x = 1\n[{}]", "[{}", "{} =")
    ),
)
@example(keys=["worker"] * 5_000, form="{} = 1")
@example(keys=["worker"] * 5_000, form="[[{}]]")
def test_keys_in_any_form_are_known_or_told(folder: Path, keys: list[str], form: str) -> None:
    file = folder / "keys.toml"
    file.write_text(LEAST + form.replace("{}", ".".join(keys)), encoding="utf-8")
    told(file, {})


# --- secrets ------------------------------------------------------------------------------------------------------


HUSH = "hush-hush"
CONTENTS = st.sampled_from(
    (
        HUSH,
        f"{HUSH}\n",
        f"{HUSH}\r\nmore",
        f"\n{HUSH}",
        "",
        "\n",
        f"\ufeff{HUSH}",
        f"{HUSH} ä",
        f"{HUSH}\0",
        HUSH * 9_999,
    )
).map(str.encode) | st.binary(max_size=8).map(lambda more: HUSH.encode() + more)
# What stands where a secret's file should be.
KINDS = st.sampled_from(
    ("file", "file", "file", "folder", "nothing", "broken link", "link", "closed", "link to itself")
)


def put(path: Path, kind: str, content: bytes) -> None:
    """Make a file, or what is none."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        path.rmdir()
    match kind:
        case "folder":
            path.mkdir()
        case "broken link":
            path.symlink_to("nowhere")
        case "link to itself":
            path.symlink_to(path.name)
        case "link":
            path.with_suffix(".linked").write_bytes(content)
            path.symlink_to(path.with_suffix(".linked"))
        case "file" | "closed":
            path.write_bytes(content)
            path.chmod(0o600 if kind == "file" else 0)


@fuzz(100)
@given(
    secret=st.sampled_from(SECRETS),
    file=st.none() | st.tuples(KINDS, CONTENTS),
    credential=st.none() | st.tuples(KINDS, CONTENTS),
    shared=st.none() | st.tuples(KINDS, CONTENTS),
    text=st.none() | CONTENTS.map(os.fsdecode) | TEXTS,
    named_by_variable=st.booleans(),
)
def test_a_secret_is_found_or_what_is_in_its_place_is_told_and_never_the_secret(
    folder: Path,
    secret: tuple[str, str],
    file: tuple[str, bytes] | None,
    credential: tuple[str, bytes] | None,
    shared: tuple[str, bytes] | None,
    text: str | None,
    named_by_variable: bool,
) -> None:
    section, key = secret
    credentials = folder / "credentials"
    credentials.mkdir(exist_ok=True)
    environ = {CREDENTIALS_VARIABLE: str(credentials)} | ({} if text is None else {variable(section, key): text})
    put(credentials / f"{section}_{key}", *(credential or ("nothing", b"")))
    put(credentials / f"shared_{section}_{key}", *(shared or ("nothing", b"")))
    document = LEAST
    if file is not None:
        put(folder / "secret", *file)
        if named_by_variable:
            environ[variable(section, f"{key}_file")] = "secret"
        else:
            document += f'{section}.{key}_file = "secret"\n'
    config = folder / "secrets.toml"
    config.write_text(document)
    problems = told(config, environ)
    assert HUSH not in "".join(problems)
    if not problems:
        result = load(config, environ)
        assert HUSH not in f"{describe(result)} {result!r}"
        assert "\n" not in getattr(getattr(result.config, section), key)


@fuzz(40)
@given(credentials=TEXTS | st.just("/dev/null") | st.just("/" + "x" * 5_000))
def test_any_credentials_directory_is_looked_into_or_not(folder: Path, credentials: str) -> None:
    file = folder / "any.toml"
    file.write_text(LEAST)
    assert told(file, {CREDENTIALS_VARIABLE: credentials}) == []


# --- the store alone ----------------------------------------------------------------------------------------------


@fuzz(100)
@given(
    environ=st.dictionaries(
        st.sampled_from([variable(section, key) for section, key in PLACES if section == "store"]), TEXTS, max_size=3
    ),
    url=st.none() | TEXTS,
)
def test_the_store_of_the_environment_is_right_or_told_by_what_is_wrong(
    environ: dict[str, str], url: str | None
) -> None:
    try:
        load_store(None, environ, url)
    except ConfigError as error:
        for problem in error.problems:
            assert problem.startswith(("FFSUPER_STORE_", "--store: "))
