"""``ffsuper check``, ``library`` and ``--version``."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import redis

from ffsuper.cli import Exit, main
from ffsuper.commands import checking
from ffsuper.config_loader import describe
from ffsuper.store.libraries import FFSUPER, FLOWFABRIC, assemble, own_mark
from tests.config_files import loaded
from tests.redis_server import running_server

FOREIGN = "#!lua name=flowfabric\nredis.register_function('ff_version', function() return '{version}' end)"
WORKER_TOML = """\
[worker]
handlers = ["jobs"]
lanes = ["a", "b"]
[store]
url = "redis://localhost"
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """Empty the store that the commands use."""
    monkeypatch.setenv("FFSUPER_STORE_URL", url)
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.function_flush()
        yield client


def of_release(name: str, release: str) -> str:
    """Return our library as another release would bring it."""
    return assemble(name).replace(own_mark(name).line, f"-- ffsuper {release} 0000")


def standings(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[str, str]]:
    """Call ``ffsuper library``; return standing and version by name."""
    assert main(["library", "--json", *arguments]) == Exit.OK
    return {one["name"]: (one["standing"], one["version"]) for one in json.loads(capsys.readouterr().out)}


def test_looking_at_the_libraries_of_an_empty_store_loads_nothing(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    assert standings(capsys) == {FLOWFABRIC: ("missing", ""), FFSUPER: ("missing", "")}
    assert (store.function_list(), store.keys("*")) == ([], [])


def test_our_libraries_are_loaded_and_told(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    assert standings(capsys, "--load") == {name: ("ours", str(own_mark(name))) for name in (FLOWFABRIC, FFSUPER)}
    assert store.fcall("ff_version", 0) == b"5"


@pytest.mark.parametrize(("release", "standing"), [("0.0.1", "older"), ("99.0.0", "newer")])
def test_another_release_of_ours_is_told_and_replaced_on_demand_only(
    release: str, standing: str, store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    store.function_load(of_release(FLOWFABRIC, release))
    assert standings(capsys)[FLOWFABRIC] == (standing, f"{release} 0000")
    assert standings(capsys, "--load")[FLOWFABRIC] == ("ours", str(own_mark(FLOWFABRIC)))


def test_a_foreign_library_is_left_alone_and_said_to_be(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    store.function_load(FOREIGN.format(version="5"))
    found = standings(capsys, "--load")
    assert (found[FLOWFABRIC], found[FFSUPER][0]) == (("foreign", "protocol 5"), "ours")
    assert main(["library"]) == Exit.OK
    first = capsys.readouterr().out.splitlines()[0]
    assert ("protocol 5" in first, 'only where [store] library = "replace"' in first) == (True, True)


def test_a_foreign_library_is_replaced_where_the_configuration_says_so(
    store: redis.Redis, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.function_load(FOREIGN.format(version="4"))
    config = tmp_path / "worker.toml"
    config.write_text(f'[store]\nurl = "{url}"\nlibrary = "replace"\n')
    assert standings(capsys, "--load", "--config", str(config))[FLOWFABRIC][0] == "ours"


def test_a_foreign_library_of_another_protocol_is_an_error_when_ours_are_to_be_loaded(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    store.function_load(FOREIGN.format(version="4"))
    assert standings(capsys)[FLOWFABRIC] == ("foreign", "protocol 4")
    assert main(["library", "--load"]) == Exit.STORE_UNSUITABLE
    assert "version 4, and this worker speaks version 5" in capsys.readouterr().err


def test_where_loading_is_forbidden_nothing_is_loaded(
    store: redis.Redis, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "worker.toml"
    config.write_text(f'[store]\nurl = "{url}"\nlibrary = "never"\n')
    assert main(["library", "--load", "--config", str(config)]) == Exit.CONFIG
    assert 'library = "never" forbids' in capsys.readouterr().err
    assert store.function_list() == []


def test_every_setting_is_printed_with_its_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checking.print_settings(describe(loaded(tmp_path, WORKER_TOML)))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any(row[:2] == ["[worker]", "handlers"] and row[-1] == "worker.toml" for row in rows)
    assert any(row[:2] == ["[lease]", "ttl_ms"] and row[-1] == "default" for row in rows)


def test_settings_are_told_as_json_with_values_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("very-secret")
    environ = {"FFSUPER_STORE_PASSWORD_FILE": "password", "FFSUPER_LEASE_TTL_MS": "9000"}
    told = checking.settings_of(describe(loaded(tmp_path, WORKER_TOML, environ)))
    assert "very-secret" not in json.dumps(told)
    assert told["worker"]["lanes"] == {"value": ["a", "b"], "origin": "worker.toml"}
    assert told["lease"]["ttl_ms"] == {"value": 9000, "origin": "FFSUPER_LEASE_TTL_MS"}
    assert told["store"]["tls_ca_file"] == {"value": "", "origin": "default"}


def test_check_tells_problems_as_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "worker.toml"
    config.write_text(WORKER_TOML + "timeout_s = -1\n[leese]\n")
    assert main(["check", "--json", "--config", str(config)]) == Exit.CONFIG
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (len(told["problems"]), told["settings"]) == (2, {})
    assert [f"ffsuper: {problem}" for problem in told["problems"]] == err.splitlines()[:2]


def test_the_version_comes_first_and_tells_what_it_brings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"ffsuper {version('ffsuper')}"
    assert f"python {platform.python_version()}" in lines
    assert f"library {FLOWFABRIC} {own_mark(FLOWFABRIC)}" in lines
