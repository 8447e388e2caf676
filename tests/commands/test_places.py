"""Where a subcommand finds its executions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ffsuper.cli import Exit
from ffsuper.commands.arguments import parse
from ffsuper.commands.places import store_settings
from ffsuper.config import StoreConfig
from ffsuper.errors import ConfigError
from tests.commands.calling import run
from tests.redis_server import running_server

PASSWORD = "hush-hush"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("FFSUPER_", "CREDENTIALS_"))]:
        monkeypatch.delenv(name)


def settings(*arguments: str) -> StoreConfig:
    return store_settings(parse(["list", *arguments]))


def test_without_a_word_the_store_is_on_this_machine() -> None:
    assert settings().url == "redis://localhost:6379/0"


def test_every_variable_of_the_store_counts_also_for_the_one_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("FFSUPER_STORE_USERNAME", "ann")
    monkeypatch.setenv("FFSUPER_STORE_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("FFSUPER_STORE_TIMEOUT_S", "2.5")
    monkeypatch.setenv("FFSUPER_STORE_URL", "redis://db:1/0")
    monkeypatch.setenv("FFSUPER_LEASE_TTL_MS", "of no interest here")
    for arguments, url in ([], "redis://db:1/0"), (["--store", "redis://other:2/0"], "redis://other:2/0"):
        found = settings(*arguments)
        assert (found.url, found.username, found.password, found.timeout_s) == (url, "ann", PASSWORD, 2.5)


def test_a_credential_of_systemd_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store_password").write_text(PASSWORD)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert settings("--store", "redis://db").password == PASSWORD


def test_a_store_on_the_command_line_takes_the_rest_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[store]\nurl = "redis://db"\nusername = "ann"\n')
    found = settings("--config", str(file), "--store", "redis://other")
    assert (found.url, found.username) == ("redis://other", "ann")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("FFSUPER_STORE_PASSWORD_FILE", "/no/such/file", "FFSUPER_STORE_PASSWORD_FILE: "),
        ("FFSUPER_STORE_USRNAME", "ann", "FFSUPER_STORE_USRNAME: unknown variable; did you mean"),
        ("FFSUPER_STORE_URL", "http://db", "FFSUPER_STORE_URL: must begin with redis://"),
    ],
)
def test_a_variable_that_is_wrong_is_named(name: str, text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError) as wrong:
        settings()
    assert wrong.value.problems[0].startswith(told)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store that lets in only who has a name and a password."""
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        with redis.Redis.from_url(url) as store:
            store.acl_setuser("ann", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
            store.acl_setuser("default", enabled=False)
        yield url


def test_who_has_the_password_gets_in_and_who_has_not_is_told_where_it_is_to_come_from(
    guarded: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, "list", "--store", guarded)
    assert code == Exit.STORE_ACCESS
    assert f"the store is at {guarded}" in err
    assert "$FFSUPER_STORE_PASSWORD_FILE" in err
    (tmp_path / "password").write_text(PASSWORD)
    monkeypatch.setenv("FFSUPER_STORE_USERNAME", "ann")
    monkeypatch.setenv("FFSUPER_STORE_PASSWORD_FILE", str(tmp_path / "password"))
    assert run(capsys, "list", "--store", guarded)[0] == Exit.OK


def test_a_servers_token_in_the_environment_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FFSUPER_SERVER_TOKEN", PASSWORD)
    code, out, err = run(capsys, "list", "--server", "http://127.0.0.1:1")
    assert (code, out) == (Exit.CONFIG, "")
    assert err.startswith("ffsuper: FFSUPER_SERVER_TOKEN: must not be in the environment")
    assert PASSWORD not in err
