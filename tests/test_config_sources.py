from __future__ import annotations

from pathlib import Path

import pytest

from ffsuper.config_loader import describe
from tests.config_files import LEAST, config, loaded, problems

# --- the environment ----------------------------------------------------------------------------------------------


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environ = {
        "FFSUPER_STORE_URL": "unix:///run/redis.sock",
        "FFSUPER_STORE_TIMEOUT_S": "2.5",
        "FFSUPER_CHILDREN_COUNT": "4",
        "FFSUPER_CHILDREN_PRELOAD": "false",
        "FFSUPER_ENGINE_ENABLED": "true",
        "FFSUPER_WORKER_LANES": "a, b c",
        "FFSUPER_WORKER_CAPABILITIES": "",
        "FFSUPER_WORKER_PYTHON_PATH": ".,/",
        "FFSUPER_LOG_LEVEL": "error",
    }
    text = LEAST + 'lanes = ["file"]\ncapabilities = ["file"]\n[children]\ncount = 7\n[log]\nlevel = 5'
    resolved = config(tmp_path, text, environ)
    assert (resolved.store.url, resolved.store.timeout_s) == ("unix:///run/redis.sock", 2.5)
    assert (resolved.children.count, resolved.children.preload) == (4, False)
    assert (resolved.engine.enabled, resolved.log.level) == (True, "error")
    assert (resolved.worker.lanes, resolved.worker.capabilities) == (("a", "b c"), ())
    assert resolved.worker.python_path == (tmp_path, Path("/"))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("FFSUPER_LEASE_TTL_MS", "30s", ': must be an integer, got "30s"'),
        ("FFSUPER_LEASE_TTL_MS", "", ': must be an integer, got ""'),
        ("FFSUPER_LEASE_TTL_MS", "3", ": must be at least 1000, got 3"),
        ("FFSUPER_LEASE_TTL_MS", "1" * 5000, f': must be an integer, got "{"1" * 80}..."'),
        ("FFSUPER_ENGINE_ENABLED", "1", ': must be true or false, got "1"'),
        ("FFSUPER_WORKER_PYTHON_PATH", "\ud800", '[0]: "'),
        ("FFSUPER_WORKER_LANES", "a,,b", "[1]: must not be empty"),
        ("FFSUPER_WORKER_LANES", " ", ": must name at least one lane"),
        ("FFSUPER_CHILDREN_ENVIRONMENT", "A=b", ": must be a table of strings in the file"),
        ("FFSUPER_STORE_URLS", "x", ": unknown variable; did you mean FFSUPER_STORE_URL?"),
        ("FFSUPER_STORE_PASWORD", "x", ": unknown variable; did you mean FFSUPER_STORE_PASSWORD_FILE?"),
        ("FFSUPER_LOG_", "x", ": unknown variable"),
    ],
)
def test_mistakes_in_variables_are_told_by_their_name(tmp_path: Path, name: str, text: str, told: str) -> None:
    (problem,) = problems(tmp_path, LEAST, {name: text})
    assert problem.startswith(name + told)


def test_other_variables_are_ignored(tmp_path: Path) -> None:
    environ = {"FFSUPER_TEST_SERVER": "x", "FFSUPER_LOG": "x", "FFSUPER": "x", "ffsuper_lease_ttl_ms": "x"}
    assert config(tmp_path, LEAST, environ) == config(tmp_path)


# --- the password -------------------------------------------------------------------------------------------------


@pytest.fixture
def credentials(tmp_path: Path) -> dict[str, str]:
    """An environment as systemd makes it."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "store_password").write_text("from the credential\n")
    return {"CREDENTIALS_DIRECTORY": str(folder)}


def test_the_password_is_from_its_file_before_the_credential(tmp_path: Path, credentials: dict[str, str]) -> None:
    (tmp_path / "secret").write_bytes(b"from the file\r\nsecond line\n")
    result = loaded(tmp_path, LEAST + '[store]\npassword_file = "secret"', credentials)
    assert result.config.store.password == "from the file"
    assert result.origins["[store] password"] == "worker.toml: [store] password_file"


def test_the_password_is_from_the_credential_without_a_file(tmp_path: Path, credentials: dict[str, str]) -> None:
    result = loaded(tmp_path, LEAST, credentials)
    assert result.config.store.password == "from the credential"
    assert result.origins["[store] password"] == "credential store_password"


@pytest.mark.parametrize("name", ["FFSUPER_STORE_PASSWORD", "FFSUPER_CLAIM_TOKEN", "FFSUPER_SERVER_TOKEN"])
@pytest.mark.parametrize("text", ["hush", "", "hush\udcff"])
def test_a_secret_in_the_environment_is_refused_and_not_repeated(
    tmp_path: Path, credentials: dict[str, str], name: str, text: str
) -> None:
    (told,) = problems(tmp_path, LEAST, credentials | {name: text})
    assert told.startswith(f"{name}: must not be in the environment")
    assert told.endswith(f"into a file and name that in {name}_FILE")
    assert "hush" not in told


def test_there_need_be_no_password(tmp_path: Path) -> None:
    result = loaded(tmp_path, LEAST)
    assert result.config.store.password == ""
    assert "[store] password" not in result.origins


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\nhush", 'the first line of "{file}" is empty'),
        (b"hush\xff", '"{file}" cannot be read: it is not UTF-8 text'),
    ],
)
def test_a_password_file_without_a_password_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    beginning = "worker.toml: [store] password_file: "
    text = beginning + told.format(file=tmp_path / "secret")
    assert problems(tmp_path, LEAST + '[store]\npassword_file = "secret"') == [text]


def test_a_credential_that_cannot_be_read_is_told(tmp_path: Path, credentials: dict[str, str]) -> None:
    credential = Path(credentials["CREDENTIALS_DIRECTORY"], "store_password")
    credential.unlink()
    credential.mkdir()
    told = f'credential store_password: "{credential}" cannot be read: Is a directory'
    assert problems(tmp_path, LEAST, credentials) == [told]


def test_a_password_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, LEAST + '[store]\npassword = "hush"')
    assert told.startswith("worker.toml: [store] password: must not be in the file")
    assert "hush" not in told


def test_a_password_file_named_by_a_variable_is_told_by_that_name(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, LEAST, {"FFSUPER_STORE_PASSWORD_FILE": "none"})
    assert told.startswith("FFSUPER_STORE_PASSWORD_FILE: ")
    assert told.endswith('none" cannot be read: No such file or directory')


# --- the token ----------------------------------------------------------------------------------------------------


def test_the_token_is_found_like_the_password(tmp_path: Path, credentials: dict[str, str]) -> None:
    (tmp_path / "token").write_text("from-the-file\n")
    Path(credentials["CREDENTIALS_DIRECTORY"], "claim_token").write_text("from-the-credential\n")
    result = loaded(tmp_path, LEAST, credentials)
    assert (result.config.claim.token, result.origins["[claim] token"]) == (
        "from-the-credential",
        "credential claim_token",
    )
    result = loaded(tmp_path, LEAST + '[claim]\ntoken_file = "token"', credentials)
    assert (result.config.claim.token, result.config.store.password) == ("from-the-file", "from the credential")
    assert ("[claim] token", '"********"', "worker.toml: [claim] token_file") in describe(result)


@pytest.mark.parametrize("token", [" hush", "hu sh", "hush\t", "h\u00fcsh"])
def test_a_token_that_cannot_stand_in_a_header_is_refused_and_not_repeated(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(f"{token}\n")
    (told,) = problems(tmp_path, LEAST + '[claim]\ntoken_file = "token"')
    assert told == "worker.toml: [claim] token_file: the token must be printable ASCII without spaces"


def test_a_token_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, LEAST + '[claim]\ntoken = "hush"')
    assert told.startswith("worker.toml: [claim] token: must not be in the file")
    assert "hush" not in told


# --- origins ------------------------------------------------------------------------------------------------------


def test_every_setting_is_described_with_its_origin(tmp_path: Path) -> None:
    text = LEAST + 'lanes = ["a", "b"]\n'
    (tmp_path / "secret").write_text("hush\n")
    environ = {"FFSUPER_LEASE_TTL_MS": "60000", "FFSUPER_STORE_PASSWORD_FILE": "secret"}
    result = loaded(tmp_path, text + '[children]\ncount = 3\nenvironment = {KEY = "hush"}', environ)
    rows = describe(result)
    assert rows[2] == ("[worker] lanes", '["a", "b"]', "worker.toml")
    assert ("[lease] ttl_ms", "60000", "FFSUPER_LEASE_TTL_MS") in rows
    assert ("[lease] margin_ms", "2000", "default") in rows
    assert ("[children] count", "3", "worker.toml") in rows
    assert ("[children] environment", '{KEY = "********"}', "worker.toml") in rows
    assert ("[children] preload", "true", "default") in rows
    assert ("[store] password", '"********"', "FFSUPER_STORE_PASSWORD_FILE") in rows
    assert ("[claim] token_file", '""', "default") in rows
    assert ("[engine] enabled", "false", "default") in rows
    assert "hush" not in f"{rows} {result!r}"


def test_an_absent_password_is_described_as_such(tmp_path: Path) -> None:
    assert ("[store] password", '""', "default") in describe(loaded(tmp_path))
