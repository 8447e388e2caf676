"""The files in config/ and docs/configuration.md say what the classes say."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from ffsuper.config import SECRET_KEYS, SECTIONS
from ffsuper.config_loader import describe, load, toml_text
from tests.config_files import config, loaded

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "config").glob("*.toml"))
REFERENCE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

# A default that is commented out has its number sign right before the key; prose has a space between.
COMMENTED_OUT = re.compile(r"^#(?=\w+ = )", re.MULTILINE)


def keys(section: str) -> list[str]:
    return [field.name for field in fields(SECTIONS[section]) if field.name != SECRET_KEYS.get(section)]


def production_example() -> str:
    return (ROOT / "config" / "worker.toml").read_text(encoding="utf-8")


def test_there_are_examples() -> None:
    assert [path.name for path in EXAMPLES] == ["embedded.toml", "minimal.toml", "worker.toml"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads(path: Path) -> None:
    assert load(path, {}).config.worker.handlers


def test_the_production_example_still_loads_with_its_comments_removed(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    for name in ("store_password", "claim_token", "server_token"):
        (tmp_path / name).write_text("hush")
    for name in ("ca.pem", "worker.pem", "worker.key"):
        (tmp_path / name).touch()
    complete = loaded(tmp_path, COMMENTED_OUT.sub("", production_example()))
    assert [place for place, _, origin in describe(complete) if origin == "default"] == []


def test_the_production_example_comments_out_nothing_but_defaults(tmp_path: Path) -> None:
    text = production_example()
    uncommented = tomllib.loads(COMMENTED_OUT.sub("", text))
    given = tomllib.loads(text)
    without_default = {"instance_id", "python_path", "password_file", "tls_ca_file", "tls_cert_file", "tls_key_file"}
    without_default |= {"server_url", "token_file", "ca_file", "cors_origins"}
    for section, kind in SECTIONS.items():
        defaults = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(kind()).items()}
        shown = {key: value for key, value in uncommented[section].items() if key not in given.get(section, {})}
        assert {key: defaults[key] for key in shown.keys() - without_default} == {
            key: value for key, value in shown.items() if key not in without_default
        }


def test_the_first_try_needs_no_server() -> None:
    example = load(ROOT / "config" / "embedded.toml", {}).config
    assert (example.store.url, example.engine.enabled) == ("embedded", True)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_reference_lists_every_key_with_its_default(section: str, tmp_path: Path) -> None:
    (part,) = re.findall(rf"^## \[{section}\]\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, re.MULTILINE))
    assert list(rows) == keys(section)
    defaults = SECTIONS[section]()
    for key, told in rows.items():
        if told.startswith("`") and key != "instance_id":
            assert told == f"`{toml_text(getattr(defaults, key))}`"
        elif key != "handlers":
            assert getattr(defaults, key) in (None, "")


def test_the_examples_of_the_reference_work(tmp_path: Path) -> None:
    examples = dict(re.findall(r"`(FFSUPER_[A-Z_]+)=([^`]+)`", REFERENCE))
    assert len(examples) == 4
    text = '[worker]\nhandlers = ["app"]'
    assert config(tmp_path, text, examples) != config(tmp_path, text)
